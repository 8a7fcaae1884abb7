"""A shared multi-party computation service that nobody controls alone (track 3 of the report).

`service.Service` starts the parties as processes; `catalogue` lists what they compute; `tasks`,
`policy` and `pet_lab.parties.log` are what makes the safe with K keys. mpyc loads when it is used.
"""
