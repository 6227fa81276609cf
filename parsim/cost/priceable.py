"""What the roofline can price, as a table of rules. A run that breaks one is refused, never approximated in silence."""

from parsim.memory.host import states_on_host
from parsim.spec import Rule, Run, check_rules

__all__ = ["RULES", "check_priceable"]


def _grouped_experts(run: Run) -> bool:
    layout = run.layout
    return run.model.moe is not None and layout.zero_group not in (None, layout.mesh.dp * layout.mesh.cp)


def _whole_tokens(run: Run) -> bool:
    return run.model.moe is not None and run.layout.mesh.tp > 1 and not run.layout.sequence_parallel


def _muon_on_host(run: Run) -> bool:
    return states_on_host(run) and run.software.optimizer == "muon"


def _host_of_unknown_rate(run: Run) -> bool:
    return states_on_host(run) and run.cluster.node.host_memory_bytes_per_s is None


def _blackwell_unthrottled(run: Run) -> bool:
    return not run.software.throttled and "fp4" in run.cluster.node.gpu.flops_per_s


RULES: tuple[Rule, ...] = (
    Rule("layout.zero_group", _grouped_experts, "none with experts"),
    Rule("layout.sequence_parallel", _whole_tokens, "true with experts and tp"),
    Rule("software.optimizer", _muon_on_host, "adam with layout.offload.optimizer"),
    Rule("cluster.node.host_memory_bytes_per_s", _host_of_unknown_rate, "its rate with layout.offload.optimizer"),
    Rule("software.throttled", _blackwell_unthrottled, "true on Blackwell"),
)


def check_priceable(run: Run) -> None:
    """LayoutError that names the first rule `run` breaks: the field, its value, the value that would do."""
    check_rules(run, RULES, "the cost model cannot price this yet")
