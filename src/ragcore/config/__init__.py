"""Configuration. ragcore reads environment variables only in this package."""

from ragcore.config.config import EMBEDDED_SCHEME as EMBEDDED_SCHEME
from ragcore.config.config import EXTRACTIVE as EXTRACTIVE
from ragcore.config.config import Config
from ragcore.config.environment import COMMAND_LINE_VARIABLES as COMMAND_LINE_VARIABLES
from ragcore.config.environment import OWN as OWN
from ragcore.config.environment import SETTINGS as SETTINGS
from ragcore.config.settings import Policies, Settings

__all__ = ["Config", "Policies", "Settings"]
