"""YAML and JSON are read within limits: every text that is none of ours ends in one line that names the key or the line."""

import time

import pytest

from spiky_rl.config.safe_loading import MAX_DEPTH, MAX_NODES, ReadingError, parse_json, parse_yaml, read_file

LAUGHS = "a0: &a0 [ha, ha]\n" + "".join(
    f"a{i}: &a{i} [{', '.join([f'*a{i - 1}'] * 9)}]\n" for i in range(1, 40)
)
DEEP = 100_000
"""Brackets inside each other: more than any reader's stack."""

BAD_YAML = {
    "aliases that multiply": (LAUGHS, "more than 20,000 values with aliases expanded"),
    "merge keys that multiply": (
        "a0: &a0 {x: 1}\n"
        + "".join(f"a{i}: &a{i} {{<<: [{', '.join([f'*a{i - 1}'] * 9)}], k{i}: 1}}\n" for i in range(1, 40)),
        "more than 20,000 values",
    ),
    "an alias in itself": ("a: &a [1, *a]", r"the alias \*a contains itself.*line 1"),
    "a mapping in itself": ("a: &a {b: *a}", r"the alias \*a contains itself"),
    "an unknown alias": ("a: *b", "undefined alias"),
    "nested lists": ("a: " + "[" * DEEP, f"nested more than {MAX_DEPTH} deep"),
    "nested mappings": ("a: " + "{a: " * DEEP, f"nested more than {MAX_DEPTH} deep"),
    "nested by aliases": (
        "a0: &a0 [1]\n" + "".join(f"a{i}: &a{i} [*a{i - 1}]\n" for i in range(1, MAX_DEPTH + 9)),
        f"nested more than {MAX_DEPTH} deep",
    ),
    "many values": ("a: [" + "1," * MAX_NODES + "]", "more than 20,000 values"),
    "a key twice": ("a: 1\nb: 2\na: 3", "the key 'a' is given twice.* line 3"),
    "a key twice inside": ("x:\n  a: 1\n  a: 3", "the key 'a' is given twice.* line 3"),
    "a number as key": ("1: a", "the key '1' is not text; write it in quotes.* line 1"),
    "truth as key": ("true: a", "the key 'true' is not text"),
    "nothing as key": ("~: a", "the key '~' is not text"),
    "a list as key": ("? [a]\n: 1", "a list or a mapping cannot be a key"),
    "infinity": ("a: {b: .inf}", r"a\.b: expected a finite number, got inf"),
    "not a number": ("a: [1, .nan]", r"a\[1\]: expected a finite number, got nan"),
    "a float beyond all": ("a: 1e999", "a: expected a finite number, got inf"),
    "a number of 65 bits": ("a: 9223372036854775808", "a: 9223372036854775808 is out of range"),
    "a number of 5,000 digits": ("a: " + "9" * 5000, "not valid YAML: .*digits"),
    "a Python object": ("a: !!python/object/apply:os.system [ls]", "the tag .*os.system is not allowed"),
    "a tag of YAML": ("a: !!set {b}", "the tag .*set is not allowed"),
    "half a character": (r'a: "\ud800"', "contains an invalid character"),
    "no character": (r'a: "\0"', "contains an invalid character"),
    "a character beyond all": (r'a: "\UFFFFFFFF"', "not valid YAML"),
    "a text of 8 MB": ("a: " + "x" * 2**23, "not valid YAML: 8,388,611 characters; at most 1,048,576"),
    "a comment of 8 MB": ("#" * 2**23, "not valid YAML: 8,388,608 characters"),
    "two documents": ("a: 1\n---\nb: 2", "not valid YAML: expected a single document"),
    "tabs": ("a:\n\t- b", "not valid YAML: .* line 2"),
}


@pytest.mark.parametrize("case", BAD_YAML)
def test_a_yaml_text_that_is_none_of_ours_is_refused_in_one_line_and_at_once(case):
    text, message = BAD_YAML[case]
    start = time.process_time()
    with pytest.raises(ReadingError, match=message) as caught:
        parse_yaml(text)
    assert "\n" not in str(caught.value) and len(str(caught.value)) < 500
    assert time.process_time() - start < 5.0


BAD_JSON = {
    "nested lists": ('{"a": ' + "[" * DEEP, "nested more than"),
    "nested lists that end": (
        '{"a": ' + "[" * 200 + "]" * 200 + "}",
        f"a: nested more than {MAX_DEPTH} deep",
    ),
    "a key twice": ('{"a": 1, "a": 2}', "the key 'a' is given twice"),
    "the last of many keys twice": (
        "{" + ", ".join(f'"{i}": 1' for i in [*range(50_000), 49_999]) + "}",
        "the key '49999' is given twice",
    ),
    "not a number": ('{"a": {"b": NaN}}', r"a\.b: expected a finite number, got nan"),
    "infinity": ('{"a": [-Infinity]}', r"a\[0\]: expected a finite number, got -inf"),
    "a number of 65 bits": ('{"a": 9223372036854775808}', "a: 9223372036854775808 is out of range"),
    "a number of 5,000 digits": ('{"a": ' + "9" * 5000 + "}", "not valid JSON: .*digits"),
    "half a character": (r'{"a": "\ud800"}', "contains an invalid character"),
    "half a text": ('{"a": 1', "not valid JSON: .*line 1"),
    "empty": ("", "not valid JSON: .*line 1"),
}


@pytest.mark.parametrize("case", BAD_JSON)
def test_a_json_text_that_is_none_of_ours_is_refused_in_one_line(case):
    text, message = BAD_JSON[case]
    start = time.process_time()
    with pytest.raises(ReadingError, match=message) as caught:
        parse_json(text)
    assert "\n" not in str(caught.value)
    assert time.process_time() - start < 5.0


def test_what_is_read_is_the_callers_own_and_read_anew_the_same():
    first = parse_yaml("a: {b: [1]}")
    first["a"]["b"].append(2)
    assert parse_yaml("a: {b: [1]}") == {"a": {"b": [1]}}


def test_plain_aliases_and_merge_keys_mean_what_yaml_says():
    text = """
    lif: &lif {name: lif, tau: 2.0}
    list: [&slow {<<: *lif, tau: 20.0}, *lif]
    both: {<<: [*slow, {gain: 1.0, tau: 9.0}], tau: 5.0}
    """
    lif, slow = {"name": "lif", "tau": 2.0}, {"name": "lif", "tau": 20.0}
    both = {"name": "lif", "gain": 1.0, "tau": 5.0}
    assert parse_yaml(text) == {"lif": lif, "list": [slow, lif], "both": both}


def test_text_stays_text_and_numbers_are_numbers():
    meant = {
        "2024-01-01": "2024-01-01", "2024-01-01 10:00:00": "2024-01-01 10:00:00", "1:30": "1:30", "010": "010",
        "=": "=", "nan": "nan", "on": "on", "no": "no", "False": False, "5e-4": 5e-4, "1_000": 1000, "0x10": 16, "-3": -3, ".5": 0.5, "1.": 1.0, "0": 0,
        "true": True, "~": None, "": None, "1.5e+3": 1500.0, "9223372036854775807": 2**63 - 1,
    }  # fmt: skip
    assert {text: parse_yaml(text) for text in meant} == meant
    assert all(isinstance(parse_yaml(text), type(value)) for text, value in meant.items())


def test_a_file_is_named_with_what_is_wrong_with_it(tmp_path):
    broken = tmp_path / "broken.yaml"
    broken.write_text("a: {b: .nan}", encoding="utf-8")
    with pytest.raises(ReadingError, match=r"broken\.yaml: a\.b: expected a finite number"):
        read_file(broken, parse_yaml)
    broken.write_bytes(b"\xff\xfe\x00")
    with pytest.raises(ReadingError, match=r"broken\.yaml: not valid YAML"):
        read_file(broken, parse_yaml)
    with pytest.raises(ReadingError, match=r"cannot read '.*none\.yaml': No such file"):
        read_file(tmp_path / "none.yaml", parse_yaml)
    with pytest.raises(ReadingError, match="cannot read .*: it is not a regular file"):
        read_file(tmp_path, parse_yaml)


def test_a_pipe_that_nobody_writes_to_is_no_file_to_wait_for(tmp_path):
    import os

    os.mkfifo(tmp_path / "pipe.yaml")
    with pytest.raises(ReadingError, match=r"pipe\.yaml': it is not a regular file"):
        read_file(tmp_path / "pipe.yaml", parse_yaml)
