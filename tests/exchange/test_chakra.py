"""Chakra traces are read back by protobuf itself, with fields of Chakra's public schema, and hold the whole step."""

from collections import Counter
from typing import Any

import pytest

from parsim.cost import RooflineCost
from parsim.cost.segments import Collective, Kernel
from parsim.errors import LayoutError
from parsim.exchange import export
from parsim.exchange.chakra.wire import varint
from parsim.plan import COMPUTE, add_p2p
from parsim.run_plan import plan_of
from parsim.spec import Run, load_run

TYPES = {4: "compute", 5: "send", 6: "receive", 7: "collective"}
COLLECTIVE = {0: "all_reduce", 2: "all_gather", 6: "all_to_all", 7: "reduce_scatter"}
SMALL = [
    "model.layers=16",
    "layout.mesh.dp=2",
    "layout.mesh.tp=2",
    "layout.mesh.pp=2",
    "cluster.nodes=1",
    "layout.stages_per_rank=null",
]


@pytest.fixture(scope="module")
def messages() -> tuple[Any, Any]:
    """GlobalMetadata and Node of et_def.proto (package ChakraProtoMsg), of the fields that are written."""
    pytest.importorskip("google.protobuf", reason="needs protobuf: the extra [dev]")
    from google.protobuf import descriptor_pb2, descriptor_pool, message_factory

    kinds = descriptor_pb2.FieldDescriptorProto
    file = descriptor_pb2.FileDescriptorProto(name="et_def.proto", package="ChakraProtoMsg", syntax="proto3")

    def message(name: str, *fields: tuple[str, int, int, bool, str]) -> None:
        made = file.message_type.add(name=name)
        for field, number, kind, repeated, type_name in fields:
            label = kinds.LABEL_REPEATED if repeated else kinds.LABEL_OPTIONAL
            made.field.add(name=field, number=number, type=kind, label=label, type_name=type_name or None)

    attribute = ".ChakraProtoMsg.AttributeProto"
    values = {
        "double_val": (3, kinds.TYPE_DOUBLE),
        "int32_val": (7, kinds.TYPE_INT32),
        "int64_val": (9, kinds.TYPE_INT64),
        "uint64_val": (13, kinds.TYPE_UINT64),
        "bool_val": (27, kinds.TYPE_BOOL),
        "string_val": (29, kinds.TYPE_STRING),
    }
    message(
        "AttributeProto", ("name", 1, kinds.TYPE_STRING, False, ""), ("doc_string", 2, kinds.TYPE_STRING, False, "")
    )
    made = file.message_type[0]
    made.oneof_decl.add(name="value")
    for name, (number, kind) in values.items():
        made.field.add(name=name, number=number, type=kind, label=kinds.LABEL_OPTIONAL, oneof_index=0)
    message(
        "GlobalMetadata",
        ("version", 1, kinds.TYPE_STRING, False, ""),
        ("attr", 2, kinds.TYPE_MESSAGE, True, attribute),
    )
    node_type = file.enum_type.add(name="NodeType")
    names = ("INVALID", "METADATA", "MEM_LOAD", "MEM_STORE", "COMP", "COMM_SEND", "COMM_RECV", "COMM_COLL")
    for number, name in enumerate(names):
        node_type.value.add(name=f"{name}_NODE", number=number)
    message(
        "Node",
        ("id", 1, kinds.TYPE_UINT64, False, ""),
        ("name", 2, kinds.TYPE_STRING, False, ""),
        ("type", 3, kinds.TYPE_ENUM, False, ".ChakraProtoMsg.NodeType"),
        ("ctrl_deps", 4, kinds.TYPE_UINT64, True, ""),
        ("data_deps", 5, kinds.TYPE_UINT64, True, ""),
        ("start_time_micros", 6, kinds.TYPE_UINT64, False, ""),
        ("duration_micros", 7, kinds.TYPE_UINT64, False, ""),
        ("attr", 10, kinds.TYPE_MESSAGE, True, attribute),
    )
    pool = descriptor_pool.DescriptorPool()
    pool.Add(file)
    found = [pool.FindMessageTypeByName(f"ChakraProtoMsg.{name}") for name in ("GlobalMetadata", "Node")]
    return tuple(map(message_factory.GetMessageClass, found))  # type: ignore[return-value]


def read(data: bytes, messages: tuple[Any, Any]) -> tuple[Any, list[Any]]:
    """The metadata and the nodes of a file: messages behind their lengths, nothing left over, nothing unknown."""
    metadata_class, node_class = messages
    found, at = [], 0
    while at < len(data):
        size, shift = 0, 0
        while True:
            byte = data[at]
            size, shift, at = size | (byte & 0x7F) << shift, shift + 7, at + 1
            if byte < 0x80:
                break
        found.append((metadata_class if not found else node_class).FromString(data[at : at + size]))
        at += size
    assert at == len(data)
    assert sum(len(one.SerializeToString()) + len(varint(len(one.SerializeToString()))) for one in found) == len(data)
    return found[0], found[1:]


def attributes(node: Any) -> dict[str, Any]:
    return {attr.name: getattr(attr, attr.WhichOneof("value")) for attr in node.attr}


def traces(run: Run, messages: tuple[Any, Any], **options: Any) -> list[list[Any]]:
    exported = export(run, "chakra", "x.0", **options)
    files = [exported.main, *exported.beside.values()]
    assert list(exported.beside) == [f"x.{rank}.et" for rank in range(1, len(files))]
    found = []
    for file in files:
        assert isinstance(file, bytes)
        metadata, nodes = read(file, messages)
        assert metadata.version == "0.0.4"
        found.append(nodes)
    return found


RUNS = {
    "1f1b": [*SMALL, "layout.schedule=1f1b"],
    "interleaved": [*SMALL, "layout.schedule=interleaved", "layout.stages_per_rank=2"],
    "zb-v": [*SMALL, "layout.schedule=zb-v", "layout.split=balanced"],
    "dualpipe": [*SMALL, "layout.schedule=dualpipe", "layout.split=balanced"],
    "fsdp": [
        *SMALL,
        "layout.schedule=1f1b",
        "layout.zero=3",
        "layout.fsdp=true",
        "layout.mesh.pp=1",
        "layout.mesh.dp=4",
    ],
}


def run_of(name: str) -> Run:
    return load_run("llama3-70b-64", [*RUNS[name], "batch.global_batch_size=8", "batch.sequence_length=2048"])


@pytest.mark.parametrize("name", RUNS)
def test_protobuf_reads_every_node_and_nothing_waits_for_what_comes_later(name: str, messages: tuple[Any, Any]) -> None:
    run = run_of(name)
    for nodes in traces(run, messages):
        assert [node.id for node in nodes] == list(range(len(nodes)))
        for node in nodes:
            assert all(need < node.id for need in node.data_deps)
            assert node.type in TYPES
            stated = attributes(node)
            assert node.duration_micros == round(stated["seconds"] * 1e6)
            assert stated["is_cpu_op"] is False
            if TYPES[node.type] == "collective":
                assert stated["comm_type"] in COLLECTIVE
                assert stated["comm_size"] > 0


@pytest.mark.parametrize("name", RUNS)
def test_traces_hold_the_whole_work_of_the_plan(name: str, messages: tuple[Any, Any]) -> None:
    run = run_of(name)
    plan = add_p2p(plan_of(run))
    cost = RooflineCost(run, plan.placement)
    for rank, nodes in enumerate(traces(run, messages)):
        flops = seconds = 0.0
        collectives: Counter[str] = Counter()
        for slot in (slot for slot in plan.orders[rank] if slot.first.kind in COMPUTE):
            for segment in (s for blocks in cost.segments(slot) for block in blocks for s in block):
                if isinstance(segment, Kernel):
                    flops, seconds = flops + segment.flops, seconds + segment.seconds
                elif isinstance(segment, Collective):
                    collectives[segment.kind] += 1
        compute = [attributes(n) for n in nodes if TYPES[n.type] == "compute" and not n.name.endswith("STEP")]
        assert sum(a["seconds"] for a in compute) == pytest.approx(seconds)
        assert sum(a["num_ops"] for a in compute) == pytest.approx(flops, rel=1e-6)
        inside = [
            n for n in nodes if TYPES[n.type] == "collective" and not n.name.split()[0].endswith(("GRAD", "STEP"))
        ]
        assert Counter(COLLECTIVE[attributes(n)["comm_type"]] for n in inside) == collectives


@pytest.mark.parametrize("name", RUNS)
@pytest.mark.parametrize("every_rank", [False, True])
def test_every_message_has_one_sender_and_one_receiver(name: str, every_rank: bool, messages: tuple[Any, Any]) -> None:
    run = run_of(name)
    found = traces(run, messages, every_rank=every_rank)
    assert len(found) == (run.ranks if every_rank else run.layout.mesh.pp)
    sent: Counter[tuple[int, ...]] = Counter()
    received: Counter[tuple[int, ...]] = Counter()
    for rank, nodes in enumerate(found):
        for node in nodes:
            if TYPES[node.type] in ("send", "receive"):
                stated = attributes(node)
                key = stated["comm_src"], stated["comm_dst"], stated["comm_tag"], stated["comm_size"]
                sends = TYPES[node.type] == "send"
                assert stated["comm_src" if sends else "comm_dst"] == rank
                (sent if sends else received)[key] += 1
    assert sent == received
    assert set(sent.values()) <= {1}


def test_groups_of_unfolded_ranks_agree(messages: tuple[Any, Any]) -> None:
    """Every rank of a group plays the same collectives of that group, in the same order."""
    found = traces(run_of("interleaved"), messages, every_rank=True)
    played: dict[str, list[list[tuple[str, int]]]] = {}
    members: dict[str, set[str]] = {}
    for nodes in found:
        mine: dict[str, list[tuple[str, int]]] = {}
        for node in nodes:
            stated = attributes(node)
            if "pg_name" in stated:
                mine.setdefault(stated["pg_name"], []).append((node.name, stated["comm_size"]))
                members.setdefault(stated["pg_name"], set()).add(stated["ranks"])
        for group, calls in mine.items():
            played.setdefault(group, []).append(calls)
    assert played
    for group, calls in played.items():
        (ranks,) = members[group]
        assert len(calls) == len(ranks.split(","))
        assert all(one == calls[0] for one in calls)


def test_a_run_of_too_many_nodes_is_refused() -> None:
    with pytest.raises(LayoutError, match="one of each pipeline rank would do"):
        export(load_run("llama3-405b-16k"), "chakra", every_rank=True)
