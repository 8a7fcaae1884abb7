"""User-fixable errors: one sentence with what was expected, what came, what to do."""


class WorkbenchError(Exception):
    """Base of all errors of the workbench; its text is meant to be shown without a traceback."""


class WorkspaceError(WorkbenchError):
    """The folder is no workspace, or cannot be written to."""


class NoWorkspace(WorkspaceError):
    """No folder that was named, or that lies around, is a workspace."""


class NotebookError(WorkbenchError):
    """A notebook is missing, ambiguous or not in the house form."""


class ParameterError(WorkbenchError):
    """A parameter is unknown or its value does not fit its type."""


class ResultsError(WorkbenchError):
    """Rows are not tidy, or cannot be stored."""


class ExecutorError(WorkbenchError):
    """The place where runs should execute cannot be reached or used."""
