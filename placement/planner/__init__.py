"""Plans moves of VMs: where each one goes, in which order, and what is in the way of the rest. Knows no Django."""

from placement.planner.core import Verdict, plan, prove
from placement.planner.rolling import Rolling, Step, rolling
from placement.planner.verify import execute, verify

__all__ = ["Rolling", "Step", "Verdict", "execute", "plan", "prove", "rolling", "verify"]
