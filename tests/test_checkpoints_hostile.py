"""Files that attack their reader: each is refused, nothing runs, and time and memory stay bounded."""

import json
import os
import struct
import subprocess
import sys
import zipfile
from pathlib import Path

import pytest
from checkpoint_files import (
    LEGACY_HEAD,
    PROTO,
    dictionary,
    integer,
    legacy_file,
    many,
    name,
    pickled,
    storage,
    tensor,
    text,
    zip_file,
)

from jaxperturb.checkpoints.torch_file import open_weights
from jaxperturb.errors import CheckpointError

GOOD = tensor(storage("0", "FloatStorage", 4), 0, (2, 2), (2, 1))
SHARED = name("torch._utils", "_rebuild_tensor_v2") + b"q\x01"


def call(module, member, *arguments):
    return name(module, member) + many(arguments) + b"R"


def stack_global(module, member):
    return text(module) + text(member) + b"\x93"


def code_that_runs(marker):
    """Pickles that would make the marker file, or that reach for what could."""
    command = text(f"touch {marker}")
    program = text(f"open({marker!r}, 'w')")
    system = name("os", "system") + many([command]) + b"R"
    return {
        "os_system": system,
        "posix_system": call("posix", "system", command),
        "os_system_stack_global": stack_global("os", "system") + many([command]) + b"R",
        "os_system_memo": name("os", "system") + b"q\x00" + b"0h\x00" + many([command]) + b"R",
        "eval": call("builtins", "eval", program),
        "eval_python_2": call("__builtin__", "eval", program),
        "exec_stack_global": stack_global("builtins", "exec") + many([program]) + b"R",
        "getattr": call("builtins", "getattr", text("x"), text("__class__")),
        "getattr_of_allowed": call("__builtin__", "getattr", name("collections", "OrderedDict"), text("__init__")),
        "copyreg": call("copyreg", "_reconstructor", name("collections", "OrderedDict")),
        "copy_reg_python_2": call("copy_reg", "_reconstructor", text("x")),
        "copyreg_extension": b"\x82\x01",
        "import_module": call("importlib", "import_module", text("os")),
        "import": call("builtins", "__import__", text("os")),
        "subprocess": call("subprocess", "Popen", command),
        "pickle_loads": call("pickle", "loads", b"C\x01."),
        "torch_load": call("torch", "load", text(str(marker))),
        "torch_hub": call("torch.hub", "load", text("someone/repository")),
        "numpy_testing": call("numpy.testing._private.utils", "runstring", program),
        "codecs_open": call("codecs", "open", text(str(marker)), text("w")),
        "dotted_member": stack_global("torch", "storage.os.system") + many([command]) + b"R",
        "dotted_member_of_allowed": stack_global("collections", "OrderedDict.__reduce__") + b")R",
        "attribute_of_names": stack_global("collections", "__builtins__"),
        "empty_name": stack_global("", ""),
        "name_not_text": b"K\x01K\x02\x93",
        "name_without_end": b"cos\nsystem" + b"A" * 5000,
        "name_beyond_ascii": name("os\u0441", "system"),
        "inst": b"(" + command + b"ios\nsystem\n",
        "obj": b"(" + name("os", "system") + command + b"o",
        "newobj": name("os", "system") + many([command]) + b"\x81",
        "newobj_ex": name("os", "system") + many([command]) + b"}\x92",
        "nested_reduce": call("collections", "OrderedDict", b"](" + many([text("a"), system]) + b"e"),
        "reduce_result": system + b")R",
        "call_a_text": text("os.system") + many([command]) + b"R",
        "call_a_dictionary": b"})R",
        "call_a_storage_type": name("torch", "FloatStorage") + many([integer(1)]) + b"R",
        "call_with_a_list": name("collections", "OrderedDict") + b"]R",
        "build_class": b"}" + dictionary({"__class__": system}) + b"b",
        "build_function": name("collections", "OrderedDict") + dictionary({"call": text("x")}) + b"b",
        "build_tuple": b")" + dictionary({"x": b"N"}) + b"b",
        "build_numpy_type": call("numpy", "dtype", text("f8")) + b"K\x03" + system + b"\x86b",
        "numpy_object_type": call("numpy", "dtype", text("O8"), b"K\x00", b"K\x01"),
        "numpy_array": call("numpy.core.multiarray", "_reconstruct", name("numpy", "ndarray"), b"K\x00\x85", b"C\x01b"),
        "tensor_of_nothing": call("torch._utils", "_rebuild_tensor_v2", b"N", b"K\x00", b")", b")", b"\x89", b"}"),
        "tensor_from_type": call("torch._tensor", "_rebuild_from_type_v2", name("torch", "Size"), b"N", b")", b"N"),
        "text_persistent_id": b"P0\n",
        "persistent_text": text("storage") + b"Q",
        "persistent_number": b"K\x07Q",
        "persistent_module": many([text("module"), text("a"), text("b"), text("c")]) + b"Q",
        "persistent_class": many([text("storage"), name("os", "system"), text("0"), text("cpu"), b"K\x04"]) + b"Q",
        "persistent_type_text": many([text("storage"), text("FloatStorage"), text("0"), text("cpu"), b"K\x04"]) + b"Q",
        "persistent_type_list": many([text("storage"), b"]", text("0"), text("cpu"), b"K\x04"]) + b"Q",
        "persistent_list_key": many([text("storage"), name("torch", "FloatStorage"), b"]", text("cpu"), b"K\x04"])
        + b"Q",
        "persistent_of_self": many([many([text("storage")]) + b"Q"]) + b"Q",
        "persistent_path": tensor(storage("../../../../etc/passwd", "FloatStorage", 4), 0, (4,), (1,)),
        "persistent_negative": tensor(storage("0", "FloatStorage", -4), 0, (4,), (1,)),
    }


def laughs(make, levels=40):
    """A value that holds ten times a value that holds ten times ... : tiny in memory, endless to walk."""
    pieces = [make(b"K\x01") + b"q\x00"]
    for level in range(levels):
        pieces.append(make(b"h" + bytes([level])) + b"q" + bytes([level + 1]))
    return many(pieces)


def too_large():
    """Pickles that are small and ask for much memory or time."""
    long_list = b"](" + b"K\x01" * 100_000 + b"eq\x01" + b"0"
    return {
        "laughing_lists": laughs(lambda item: b"](" + item * 10 + b"e"),
        "laughing_tuples": laughs(lambda item: many([item] * 10)),
        "laughing_dictionaries": laughs(
            lambda item: b"}(" + b"".join(b"K" + bytes([i]) + item for i in range(10)) + b"u"
        ),
        "hash_of_nested_tuples": b"}" + laughs(lambda item: many([item] * 10)) + b"Ns",
        "list_in_itself": b"]q\x00h\x00a",
        "dictionary_in_itself": b"}q\x00" + text("a") + b"h\x00s",
        "deep": b"]" * 200_000 + b"a" * 199_999,
        "deep_tuples": b")" + b"\x85" * 200_000,
        "many_steps": b"N0" * 600_000 + b"N",
        "many_marks": b"(" * 1_000_000,
        "many_values": b"](" + b"N" * 600_000 + b"e",
        "many_dictionaries": b"](" + b"}K\x01Ns" * 400_000 + b"e",
        "many_memos": b"N" + b"".join(b"r" + struct.pack("<I", i) for i in range(600_000)),
        "copied_lists": long_list + b"](" + (name("builtins", "set") + b"h\x01\x85R") * 5_000 + b"e",
        "copied_shapes": long_list + SHARED + b"0](" + (b"h\x01" * 100) + b"e",
        "copied_dictionaries": long_list + b"](" + (name("collections", "OrderedDict") + b"h\x01\x85R") * 5_000 + b"e",
        "encoded_texts": text("x" * 1_000_000)
        + b"q\x01]("
        + (name("_codecs", "encode") + b"h\x01\x85R") * 50_000
        + b"e\x86",
        "long_keys": text("x" * 100_000) + b"q\x01" + b"}h\x01" * 2_000 + b"N" + b"s" * 2_000 + b"\x86",
        "long_names": b"}" + (text("y" * 390) + b"}") * 60 + text("z") + GOOD + b"s" * 61,
        "huge_text": b"\x8d" + struct.pack("<Q", 1 << 62),
        "huge_text_4": b"X\xff\xff\xff\xffabc",
        "huge_bytes": b"\x8e" + struct.pack("<Q", 1 << 40),
        "huge_bytearray": b"\x96" + struct.pack("<Q", 1 << 40),
        "huge_integer": b"\x8b" + struct.pack("<i", 2_000_000) + b"\x01" * 2_000_000,
        "negative_integer_length": b"\x8b" + struct.pack("<i", -5),
        "decimal_integer": b"L" + b"9" * 1_000_000 + b"L\n",
        "huge_storage": tensor(storage("0", "FloatStorage", 1 << 60), 0, (1 << 60,), (1,)),
        "huge_shape": tensor(storage("0", "FloatStorage", 4), 0, (1 << 20, 1 << 20), (0, 0)),
        "huge_shape_of_many": tensor(storage("0", "FloatStorage", 4), 0, (2,) * 31, (0,) * 31),
        "huge_empty_shape": tensor(storage("0", "FloatStorage", 4), 0, (0, 1 << 62, 1 << 62), (1, 1, 1)),
        "huge_stride": tensor(storage("0", "FloatStorage", 4), 0, (2, 2), (1 << 62, 1)),
        "huge_offset": tensor(storage("0", "FloatStorage", 4), 1 << 62, (2,), (1,)),
        "past_the_end": tensor(storage("0", "FloatStorage", 4), 1, (2, 2), (2, 1)),
        "negative_offset": tensor(storage("0", "FloatStorage", 4), -1, (2,), (1,)),
        "negative_shape": tensor(storage("0", "FloatStorage", 4), 0, (-2, -2), (1, 1)),
        "negative_stride": tensor(storage("0", "FloatStorage", 4), 3, (4,), (-1,)),
        "many_axes": tensor(storage("0", "FloatStorage", 4), 0, (1,) * 500, (1,) * 500),
        "unequal_axes": tensor(storage("0", "FloatStorage", 4), 0, (2, 2), (1,)),
        "same_name_twice": b"}(" + text("a") + GOOD + text("a") + GOOD + b"u",
        "same_path_twice": dictionary({"a/b": GOOD, "a": dictionary({"b": GOOD})}),
        "number_and_text_key": b"}(K\x01" + GOOD + text("1") + GOOD + b"u",
        "wrong_storage_size": tensor(storage("0", "DoubleStorage", 4), 0, (2,), (1,)),
        "no_stop": b"",
        "empty_stack": b"00000",
        "no_mark": b"t",
        "two_values": b"NN",
        "unknown_memo": b"h\x05",
        "old_protocol": b"\x80\x09N",
    }


def archives():
    """Zip archives that lie."""
    good, raw = pickled(dictionary({"w": GOOD})), bytes(16)
    plain = zip_file(good, {"0": raw})
    directory = plain.index(b"PK\x01\x02")
    end = plain.index(b"PK\x05\x06")
    size_at = directory + 20  # packed and unpacked sizes of the first member in the directory
    return {
        "compressed": zip_file(good, {"0": raw}, zipfile.ZIP_DEFLATED),
        "bomb": zip_file(good, {"0": bytes(50_000_000)}, zipfile.ZIP_DEFLATED),
        "bomb_of_pickle": zip_file(PROTO + b"N0" * 3_000_000 + b"N.", {"0": raw}, zipfile.ZIP_DEFLATED),
        "two_pickles": plain.replace(b"archive/byteorder", b"brchive0/data.pkl"),
        "directory_outside": plain[: end + 16] + struct.pack("<I", len(plain)) + plain[end + 20 :],
        "many_members": plain[: end + 8] + struct.pack("<2H", 65_534, 65_534) + plain[end + 12 :],
        "oversized": plain[:size_at] + struct.pack("<2I", 1 << 30, 1 << 30) + plain[size_at + 8 :],
        "unequal_sizes": plain[:size_at] + struct.pack("<2I", 10, 1 << 30) + plain[size_at + 8 :],
        "large_without_record": plain[:size_at] + b"\xff" * 8 + plain[size_at + 8 :],
        "encrypted": plain[: directory + 8] + b"\x01" + plain[directory + 9 :],
        "overlapping": overlapping(good, raw),
        "twice": twice(good, raw),
        "crowd": crowd(),
        "truncated": plain[:-30],
        "first_half": plain[: len(plain) // 2],
        "without_storage": zip_file(good, {}),
        "short_storage": zip_file(good, {"0": raw[:-1]}),
        "long_storage": zip_file(good, {"0": raw + b"\0"}),
        "byte_order": plain.replace(b"little", b"middle"),
        "no_pickle": zip_file(good, {"0": raw}).replace(b"data.pkl", b"date.pkl"),
    }


def twice(pickle, raw):
    return zip_file(pickle, {"0": raw, "1": raw}).replace(b"archive/data/1", b"archive/data/0")


def overlapping(pickle, raw):
    """Two members whose entries point at the same bytes."""
    made = zip_file(pickle, {"0": raw, "1": raw})
    first, second = made.index(b"archive/data/0") - 30, made.index(b"archive/data/1") - 30
    place = made.rindex(b"archive/data/1") - 4
    assert struct.unpack_from("<I", made, place)[0] == second
    return made[:place] + struct.pack("<I", first) + made[place + 4 :]


def crowd():
    """The directory of a million members, as a large archive has it."""
    entry = struct.pack("<4s6H3I5H2I", b"PK\1\2", 20, 20, 0, 0, 0, 0, 0, 0, 0, 1, 0, 0, 0, 0, 0, 0) + b"a"
    members = entry * 300_000
    start = 4
    end64 = struct.pack("<4sQ2H2I4Q", b"PK\6\6", 44, 45, 45, 0, 0, 300_000, 300_000, len(members), start)
    locator = struct.pack("<4sIQI", b"PK\6\7", 0, start + len(members), 1)
    end = struct.pack("<4s4H2IH", b"PK\5\6", 0, 0, 0xFFFF, 0xFFFF, 0xFFFFFFFF, 0xFFFFFFFF, 0)
    return b"PK\3\4" + members + end64 + locator + end


def others():
    """Legacy and safetensors files that lie."""
    good, raw = pickled(dictionary({"w": tensor(storage("0", "FloatStorage", 4, b"N"), 0, (4,), (1,))})), bytes(16)

    def view(first, count):
        part = many([text("1"), integer(first), integer(count)])
        return pickled(dictionary({"w": tensor(storage("0", "FloatStorage", 4, part), 0, (2,), (1,))}))

    def header(value, size=16):
        made = value if isinstance(value, bytes) else json.dumps(value).encode()
        return struct.pack("<Q", len(made)) + made + bytes(size)

    entry = {"dtype": "F32", "shape": [4], "data_offsets": [0, 16]}
    listed = json.dumps(entry)
    return {
        "legacy_huge": legacy_file(
            pickled(dictionary({"w": tensor(storage("0", "FloatStorage", 1 << 60, b"N"), 0, (4,), (1,))})),
            {"0": (1 << 60, raw)},
        ),
        "legacy_count": legacy_file(good, {"0": (5, raw)}),
        "legacy_truncated": legacy_file(good, {"0": (4, raw)})[:-1],
        "legacy_without_list": LEGACY_HEAD + good,
        "legacy_without_storage": legacy_file(good, {}),
        "legacy_other_storage": legacy_file(good, {"1": (4, raw)}),
        "legacy_view_outside": legacy_file(view(3, 2), {"0": (4, raw)}),
        "legacy_view_negative": legacy_file(view(-1, 2), {"0": (4, raw)}),
        "legacy_view_too_small": legacy_file(view(0, 1), {"0": (4, raw)}),
        "legacy_head_runs": PROTO
        + b"\x8a\x0al\xfc\x9cF\xf9 j\xa8P\x19."
        + pickled(call("os", "system", text("false"))),
        "legacy_version": LEGACY_HEAD.replace(b"M\xe9\x03.", b"M\xea\x03.") + good,
        "legacy_list_runs": LEGACY_HEAD + good + pickled(call("os", "system", text("false"))),
        "legacy_two_types": legacy_file(
            pickled(b"](" + GOOD + tensor(storage("0", "IntStorage", 4), 0, (4,), (1,)) + b"e"), {"0": (4, raw)}
        ),
        "legacy_endless": LEGACY_HEAD + PROTO + b"N0" * 600_000,
        "safe_huge_header": struct.pack("<Q", 5_000_000) + b"{" + b" " * 5_000_000,
        "safe_past_the_end": header({"w": {**entry, "shape": [8], "data_offsets": [0, 32]}}),
        "safe_overlap": header({"a": entry, "b": entry}),
        "safe_twice": header(b'{"a": %b, "a": %b}' % (listed.encode(), listed.encode())),
        "safe_shape": header({"w": {**entry, "shape": [1 << 62, 1 << 62]}}),
        "safe_empty_shape": header({"w": {**entry, "shape": [0, 1 << 60, 1 << 60], "data_offsets": [0, 0]}}, 0),
        "safe_type": header({"w": {**entry, "dtype": "X32"}}),
        "safe_deep": header(b'{"a":' * 100_000 + b"1" + b"}" * 100_000),
    }


def corpus(folder, marker):
    """Writes every hostile file; the pickles in both containers."""
    files = dict(archives())
    files.update(others())
    for case, value in {**code_that_runs(marker), **too_large()}.items():
        pickle = pickled(value) if case != "no_stop" else PROTO
        files[f"{case}.zip"] = zip_file(pickle, {"0": bytes(16)})
        files[f"{case}.legacy"] = legacy_file(pickle, {"0": (4, bytes(16))})
    for case, raw in files.items():
        (folder / case).write_bytes(raw)
    return sorted(files)


# In a process of its own: what runs, how long and with how much memory is seen there and nowhere else.
READER = """
import json, re, sys, time
from pathlib import Path
from jaxperturb.checkpoints.torch_file import open_weights
from jaxperturb.errors import CheckpointError

events, modules = [], set(sys.modules)
watched = ("os.system", "os.exec", "os.posix_spawn", "subprocess.Popen", "pickle.find_class", "socket.connect", "exec", "compile")
sys.addaudithook(lambda event, details: events.append(event) if event in watched else None)

def peak():
    # Of this program alone: getrusage would count the memory of the process that started it, too.
    status = Path("/proc/self/status")
    return int(re.search(r"VmHWM:\\s+(\\d+) kB", status.read_text())[1]) if status.exists() else 0

before = peak()
results = {}
for path in sorted(Path(sys.argv[1]).iterdir()):
    start = time.process_time()
    try:
        outcome = "read: " + str(open_weights(path).names)
    except CheckpointError as error:
        outcome = "refused"
        message = str(error)
    except BaseException as error:
        outcome = f"{type(error).__name__}: {error}"[:300]
    results[path.name] = (outcome, message, time.process_time() - start)
print(json.dumps({"results": results, "events": events, "peak": peak() - before, "modules": sorted(set(sys.modules) - modules)}))
"""


@pytest.fixture(scope="module")
def report(tmp_path_factory):
    folder, marker = tmp_path_factory.mktemp("hostile"), tmp_path_factory.mktemp("marker") / "it_ran"
    cases = corpus(folder, marker)
    environment = {**os.environ, "PYTHONHASHSEED": "0"}
    done = subprocess.run(
        [sys.executable, "-W", "error", "-c", READER, str(folder)],
        capture_output=True,
        text=True,
        cwd=Path(__file__).parents[1],
        env=environment,
    )
    assert done.returncode == 0, done.stderr
    return {**json.loads(done.stdout), "cases": cases, "marker": marker}


def test_every_hostile_file_is_refused(report):
    assert sorted(report["results"]) == report["cases"]
    assert len(report["cases"]) > 200
    assert {case: outcome for case, (outcome, *_) in report["results"].items() if outcome != "refused"} == {}


def test_nothing_runs(report):
    assert not report["marker"].exists()
    assert report["events"] == []
    assert report["modules"] == []


def test_the_reason_is_the_right_one(report):
    reasons = {
        "twice": "names the member archive/data/0 2 times",
        "compressed": "is compressed",
        "encrypted": "is encrypted",
        "same_name_twice.zip": "the name 'a' is there twice",
        "huge_shape.zip": "repeats a storage of 4 elements",
        "past_the_end.legacy": "reaches element 4 of a storage of 4",
        "safe_twice": "a name is there twice",
    }
    for case, reason in reasons.items():
        assert reason in report["results"][case][1]


def test_messages_are_one_short_line(report):
    for case, (_, message, _) in report["results"].items():
        assert "\n" not in message, case
        assert len(message) < 600, case


def test_time_and_memory_are_bounded(report):
    # The issue's own bounds: one second of this process's time a file, 200 MB above the imports for all of them.
    slow = {case: seconds for case, (*_, seconds) in report["results"].items() if seconds > 1}
    assert slow == {}
    assert report["peak"] < 200_000
    if Path("/proc/self/status").exists():
        assert report["peak"] > 0


def test_the_markers_would_be_made_by_pickle(tmp_path):
    """The attacks are real: Python's own unpickler falls for them."""
    marker = tmp_path / "it_ran"
    subprocess.run(
        [
            sys.executable,
            "-c",
            "import pickle, sys; pickle.loads(bytes.fromhex(sys.argv[1]))",
            pickled(code_that_runs(marker)["os_system_stack_global"]).hex(),
        ],
        check=True,
    )
    assert marker.exists()


def test_the_good_relatives_are_read(tmp_path):
    """What the hostile files are made of is fine without the attack."""
    good = pickled(dictionary({"w": GOOD}))
    (tmp_path / "a").write_bytes(zip_file(good, {"0": struct.pack("<4f", 1, 2, 3, 4)}))
    (tmp_path / "b").write_bytes(
        legacy_file(
            pickled(dictionary({"w": tensor(storage("0", "FloatStorage", 4, b"N"), 0, (2, 2), (2, 1))})),
            {"0": (4, struct.pack("<4f", 1, 2, 3, 4))},
        )
    )
    for path in (tmp_path / "a", tmp_path / "b"):
        assert open_weights(path).read("w").tolist() == [[1, 2], [3, 4]]


def test_views_of_storages_in_the_legacy_container(tmp_path):
    part = many([text("view"), integer(1), integer(2)])
    pickle = pickled(dictionary({"w": tensor(storage("0", "FloatStorage", 4, part), 1, (1,), (1,))}))
    (tmp_path / "a").write_bytes(legacy_file(pickle, {"0": (4, struct.pack("<4f", 1, 2, 3, 4))}))
    assert open_weights(tmp_path / "a").read("w").tolist() == [3]


def test_what_a_hostile_file_is_told(tmp_path):
    (tmp_path / "a.pth").write_bytes(zip_file(pickled(call("os", "system", text("false"))), {}))
    with pytest.raises(CheckpointError, match=r"a\.pth: it names os\.system, which a state dict never needs"):
        open_weights(tmp_path / "a.pth")
