"""What one step was worth. Pure functions of two reports and the action between them."""

from esper.simic.rewards.compose import compute_reward as compute_reward
from esper.simic.rewards.utility import utility as utility
from esper.simic.rewards.utility import utility_change as utility_change
from esper.simic.rewards.utility import utility_of as utility_of
