"""A shared multi-party computation service that nobody controls alone (track 3 of the report).

`service.Service` starts the parties as processes; `catalogue` lists what they compute; `tasks`,
`policy`, `audit` and `sharing` are what makes the safe with K keys. mpyc loads when it is used.
"""

from .audit import AuditLog, Entry, Head, verify
from .errors import Cheating, MpcError, PartyLost, Refused, TaskError
from .policy import Approval, Policy, Signer, approve, check_approvals
from .tasks import JOINS, LEVELS, Column, DataRef, Task

__all__ = [
    "JOINS",
    "LEVELS",
    "Approval",
    "AuditLog",
    "Cheating",
    "Column",
    "DataRef",
    "Entry",
    "Head",
    "MpcError",
    "PartyLost",
    "Policy",
    "Refused",
    "Signer",
    "Task",
    "TaskError",
    "approve",
    "check_approvals",
    "verify",
]
