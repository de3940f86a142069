"""Rewards, returns, the PPO learner, and what its results are worth."""

from esper.simic.config import PPOConfig as PPOConfig
from esper.simic.config import RewardConfig as RewardConfig
from esper.simic.learner import Learner as Learner
from esper.simic.rewards import compute_reward as compute_reward
from esper.simic.update_report import UpdateReport as UpdateReport
from esper.simic.update_report import to_payloads as to_payloads
