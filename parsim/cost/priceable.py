"""What the roofline can price, as a table of rules. A run that breaks one is refused, never approximated in silence."""

from parsim.spec import Rule, Run, check_rules

__all__ = ["RULES", "check_priceable"]


def _recompute_modules(run: Run) -> bool:
    return bool(set(run.layout.recompute.modules) - {"core_attn", "every_second_matmul"})


def _partial_modules(run: Run) -> bool:
    recompute = run.layout.recompute
    return recompute.mode == "selective" and recompute.layers is not None


def _window_cuts(run: Run) -> bool:
    """A window as long as the sequence cuts nothing."""
    window = run.model.sliding_window
    return window is not None and window < run.batch.sequence_length


def _zero_2(run: Run) -> bool:
    return run.layout.zero == 2 and not run.layout.fsdp


def _sharded_group(run: Run) -> bool:
    layout = run.layout
    return layout.zero_group is not None and layout.zero != 1 and layout.zero_group != layout.mesh.dp * layout.mesh.cp


def _blackwell_deterministic(run: Run) -> bool:
    return run.software.deterministic_attention and "fp4" in run.cluster.node.gpu.flops_per_s


def _blackwell_unthrottled(run: Run) -> bool:
    return not run.software.throttled and "fp4" in run.cluster.node.gpu.flops_per_s


RULES: tuple[Rule, ...] = (
    Rule("model.moe", lambda run: run.model.moe is not None, "a dense model"),
    Rule("model.mla", lambda run: run.model.mla is not None, "a model with plain or grouped-query attention"),
    Rule("model.mtp_layers", lambda run: run.model.mtp_layers > 0, "0"),
    Rule("model.sliding_window", _window_cuts, "none, or a sequence_length that the window covers"),
    Rule("layout.mesh.cp", lambda run: run.layout.mesh.cp > 1, "1"),
    Rule("layout.ep", lambda run: run.layout.ep > 1, "1"),
    Rule("layout.expert_tp", lambda run: run.layout.expert_tp > 1, "1"),
    Rule("layout.offload", lambda run: run.layout.offload is not None, "none"),
    Rule("layout.precision", lambda run: "fp8" in run.layout.precision or "fp4" in run.layout.precision, "bf16"),
    Rule("layout.zero", _zero_2, "0, 1 or 3, or 2 with fsdp: true"),
    Rule("layout.zero_group", _sharded_group, "a group with zero: 1, or none"),
    Rule("layout.recompute.modules", _recompute_modules, "core_attn or every_second_matmul"),
    Rule("layout.recompute.layers", _partial_modules, "mode full, or no layers with mode selective"),
    Rule("software.attention", lambda run: run.software.attention == "unfused_sinks", "unfused, flash2 or cudnn"),
    Rule("software.deterministic_attention", _blackwell_deterministic, "false on Blackwell"),
    Rule("software.ep_overlap", lambda run: run.software.ep_overlap, "false"),
    Rule("software.optimizer", lambda run: run.software.optimizer != "adam", "adam"),
    Rule("software.throttled", _blackwell_unthrottled, "true on Blackwell"),
)


def check_priceable(run: Run) -> None:
    """LayoutError that names the first rule `run` breaks: the field, its value, the value that would do."""
    check_rules(run, RULES, "the cost model cannot price this yet")
