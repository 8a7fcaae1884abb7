"""The workbench: notebooks, runs, rows, scorecard and reports. It knows no primitive.

Nothing is imported here, so that `from pet_lab.workbench import results` costs only `results`.
"""
