"""pet_lab: an experiment workbench for privacy-enhancing technologies."""

__version__ = "0.2.0"
