"""Why a container can't be started now, or ever."""

from __future__ import annotations


class StartRefusedError(Exception):
    """The container can't run on this node: its attempt ends with reason ``StartError``, exit code 128."""


class ConfigurationMissingError(Exception):
    """Something that the container refers to is not there yet: it waits (``CreateContainerConfigError``)."""


class MountPendingError(Exception):
    """A volume can't be set up yet: the pod waits in ``ContainerCreating``."""
