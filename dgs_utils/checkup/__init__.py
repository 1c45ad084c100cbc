"""The check-up of a pool: copies, what it covers, how many different images it has, and how many to generate."""

from dgs_utils.checkup.report import PoolCheck, check_pool

__all__ = ["PoolCheck", "check_pool"]
