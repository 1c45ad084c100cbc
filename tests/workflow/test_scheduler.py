"""The local scheduler: what may begin, in which order, and how a run is interrupted."""

import signal
from types import SimpleNamespace

import pytest
from hypothesis import given
from hypothesis import strategies as st

from dgs_utils.workflow import scheduler
from dgs_utils.workflow.notebook import DEFAULT_OPTIONS, Report
from dgs_utils.workflow.scheduler import NodeQueue, interruptible


@pytest.mark.filterwarnings("ignore::pytest.PytestUnraisableExceptionWarning")
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM])
def test_an_interrupt_that_a_library_drops_is_not_lost(number, heard_signals):
    class Deaf:
        def __del__(self) -> None:
            signal.raise_signal(number)

    def interrupted() -> None:
        with interruptible() as check:
            check()
            Deaf()  # Python prints what a destructor raises, and goes on
            check()

    before = signal.getsignal(number)
    with pytest.raises(KeyboardInterrupt):
        interrupted()
    assert signal.getsignal(number) is before


@st.composite
def plans(draw):
    """Plans of up to 8 nodes, each with some of the earlier ones as inputs."""
    count = draw(st.integers(1, 8))
    return [sorted(draw(st.sets(st.integers(0, number - 1)))) if number else [] for number in range(count)]


@given(plans(), st.integers(1, 3), st.randoms(use_true_random=False))
def test_nodes_begin_in_the_plan_s_order_once_their_inputs_are_settled(plan, jobs, chance):
    """And a node whose input failed never begins; one that another process holds is tried again."""
    nodes = [SimpleNamespace(key=str(number), inputs=inputs) for number, inputs in enumerate(plan)]
    with pytest.MonkeyPatch.context() as patch:
        patch.setattr(scheduler, "input_nodes", lambda node: [nodes[source] for source in node.inputs])
        patch.setattr(scheduler, "finished_report", lambda node, options: None)
        patch.setattr(scheduler, "NODE_POLL_S", 0)
        display = SimpleNamespace(drop=lambda node: None)
        queue, running, began = NodeQueue(nodes, {}), [], []
        while queue.is_active():
            for node in queue.startable(jobs - len(running)):
                if report := queue.blocked(node, DEFAULT_OPTIONS):
                    queue.settle(node, report, display)
                else:
                    ok = all(queue.reports[nodes[source].key].outcome == "done" for source in node.inputs)
                    assert ok
                    running.append(node)
                    began.append(node.key)
            assert len(running) <= jobs
            if running:
                outcome = chance.choice(["done", "failed", None])
                queue.settle(running.pop(chance.randrange(len(running))), outcome and Report(None, outcome), display)
    assert list(queue.reports.keys() - {node.key for node in nodes}) == []
    assert len(queue.reports) == len(nodes)
    for node in nodes:
        failed = any(queue.reports[nodes[source].key].outcome != "done" for source in node.inputs)
        assert (queue.reports[node.key].outcome == "blocked") == failed
        assert (node.key in began) != failed


def test_one_at_a_time_is_the_plan_s_own_order(monkeypatch):
    nodes = [SimpleNamespace(key=str(number), inputs=inputs) for number, inputs in enumerate([[], [], [0], [1], [2]])]
    monkeypatch.setattr(scheduler, "input_nodes", lambda node: [nodes[source] for source in node.inputs])
    queue, order = NodeQueue(nodes, {"1": Report(None, "skipped")}), []
    while queue.is_active():
        for node in queue.startable(1):
            order.append(node.key)
            queue.settle(node, Report(None, "done"), SimpleNamespace(drop=lambda node: None))
    assert order == ["0", "2", "3", "4"]
