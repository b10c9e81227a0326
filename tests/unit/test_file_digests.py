"""File digests are those of sha256sum, ModelSpec and the OMS tool, or one named error."""

from __future__ import annotations

import base64
import hashlib
import json
import os
import runpy
import shutil
import time
import tracemalloc
from pathlib import Path
from threading import Event
from typing import Any

import numpy as np
import pytest
from makers import model_bytes, small_model, write_hub_cache, write_model, write_sharded

from lineage import read
from lineage.artifacts import hashed
from lineage.artifacts.digests import FileDigests, SignedSubject, file_digests
from lineage.artifacts.hashed import PIECE
from lineage.artifacts.oms import MAX_BUNDLE_BYTES, subject_of
from lineage.errors import FormatError

DATA = Path(__file__).parents[1] / "data" / "oms"
MAKE = runpy.run_path(str(DATA / "make.py"))
FILES: dict[str, bytes] = MAKE["FILES"]
ONE: str = MAKE["ONE"]
FOLDER_SUBJECT = "f6a8ef911aeda61cbd46cbc8d646f26e8b14f8546b4472777ac07c6d480f70b7"
ONE_SUBJECT = "052fe9d5158df81e871a1ffc8cc60856ec4aef6efe312d7949933f6a15c23b74"


def sha256(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


@pytest.fixture
def tiny(tmp_path: Path) -> Path:
    folder: Path = MAKE["write_model"](tmp_path / "tiny")
    return folder


def signed(folder: Path, *names: str) -> FileDigests:
    for name in names:
        shutil.copy(DATA / name, folder / name)
    return file_digests(folder)


def only(found: FileDigests) -> SignedSubject:
    (signature,) = found.signatures
    return signature


class TestWholeFiles:
    def test_every_shard_has_the_digest_of_its_bytes(self, tmp_path: Path) -> None:
        folder = write_sharded(tmp_path / "m", [{"a": np.zeros(3, "f4")}, {"b": np.ones(5, "f4")}])
        found = file_digests(folder).files
        assert [(f.name, f.sha256, f.size_bytes) for f in found] == [
            (p.name, sha256(p.read_bytes()), p.stat().st_size)
            for p in sorted(folder.glob("*.safetensors"))
        ]

    def test_the_files_are_those_that_read_opens(self, tmp_path: Path) -> None:
        folder = tmp_path / "m"
        write_model(folder / "model.safetensors", small_model())
        write_model(folder / "model.fp16.safetensors", small_model())
        (folder / "pytorch_model.bin").write_bytes(b"never opened")
        with read(folder) as artifact:
            assert len(artifact.watched) == 1
        assert [f.name for f in file_digests(folder).files] == ["model.safetensors"]

    def test_an_index_stands_for_its_shards_and_has_no_subject(self, tmp_path: Path) -> None:
        folder = write_sharded(tmp_path / "m", [{"a": np.zeros(3, "f4")}, {"b": np.ones(5, "f4")}])
        found = file_digests(folder / "model.safetensors.index.json")
        assert [f.name for f in found.files] == [
            p.name for p in sorted(folder.glob("*.safetensors"))
        ]
        assert found.oms is None
        assert found.signatures == ()

    def test_components_are_named_by_their_folder(self, tmp_path: Path) -> None:
        folder = tmp_path / "m"
        write_model(folder / "unet" / "model.safetensors", small_model(1))
        write_model(folder / "vae" / "model.safetensors", small_model(2))
        (folder / "model_index.json").write_text('{"unet": ["d", "U"], "vae": ["d", "V"]}')
        names = [f.name for f in file_digests(folder).files]
        assert names == ["unet/model.safetensors", "vae/model.safetensors"]

    def test_a_cache_is_read_through_its_links(self, tmp_path: Path) -> None:
        data = model_bytes(small_model())
        cache = write_hub_cache(tmp_path, {"model.safetensors": data, "config.json": b"{}"})
        found = file_digests(cache)
        assert [(f.name, f.sha256) for f in found.files] == [("model.safetensors", sha256(data))]
        assert found.oms is not None
        assert (found.oms.files, found.oms.has_links) == (2, True)
        assert found.path == str(cache)

    def test_a_file_larger_than_a_piece(self, tmp_path: Path) -> None:
        array = np.arange(3_000_000, dtype="u4")  # 12 MB: not a whole number of pieces
        path = write_model(tmp_path / "m.safetensors", {"w": array}, pad=5)
        (file,) = file_digests(path).files
        assert file.sha256 == sha256(path.read_bytes())
        assert file.modelspec == "0x" + sha256(array.tobytes())

    def test_a_header_larger_than_a_piece(self, tmp_path: Path) -> None:
        array = np.arange(300, dtype="u4")
        path = write_model(tmp_path / "m.safetensors", {"w": array}, pad=9_000_001)
        (file,) = file_digests(path).files
        assert file.modelspec == "0x" + sha256(array.tobytes())

    def test_other_formats_have_no_content_digest(self, tmp_path: Path) -> None:
        np.save(tmp_path / "w.npy", np.zeros(4, "f4"))
        found = file_digests(tmp_path / "w.npy")
        assert found.to_json()["files"] == [
            {
                "name": "w.npy",
                "size_bytes": (tmp_path / "w.npy").stat().st_size,
                "sha256": sha256((tmp_path / "w.npy").read_bytes()),
            }
        ]

    def test_progress_counts_every_byte_once(self, tiny: Path) -> None:
        seen: list[int] = []
        file_digests(tiny, progress=seen.append)
        plain = (data for name, data in FILES.items() if not name.startswith(".git"))
        assert sum(seen) == sum(map(len, plain))

    def test_memory_does_not_grow_with_the_file(self, tmp_path: Path) -> None:
        path = tmp_path / "m.safetensors"
        head = model_bytes({"w": np.zeros(0, "u1")})
        head = head.replace(b"[0]", b"[60000000]").replace(b"[0, 0]", b"[0, 60000000]")
        path.write_bytes((len(head) - 8).to_bytes(8, "little") + head[8:])
        os.truncate(path, len(head) + 60_000_000)
        tracemalloc.start()
        file_digests(path)
        peak = tracemalloc.get_traced_memory()[1]
        tracemalloc.stop()
        assert peak < 10_000_000

    def test_only_what_is_stored(self) -> None:
        with pytest.raises(TypeError, match="not dict"):
            file_digests({"w": np.zeros(1)})  # type: ignore[arg-type]


class TestTrouble:
    def test_a_weight_file_written_to_meanwhile(self, tmp_path: Path) -> None:
        path = write_model(tmp_path / "m.safetensors", small_model())
        with pytest.raises(FormatError, match=r"m\.safetensors: the file changed"):
            file_digests(path, progress=lambda _: os.utime(path, (1, 1)))

    def test_a_weight_file_written_to_after_its_turn(
        self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
    ) -> None:
        monkeypatch.setattr(hashed, "cores", lambda: 1)  # the larger first, then the smaller
        large, small = {"a": np.zeros(999, "f4")}, {"b": np.zeros(1, "f4")}
        write_sharded(tmp_path / "m", [large, small])
        first, second = sorted((tmp_path / "m").glob("*.safetensors"))

        def touch(size: int) -> None:
            if size == second.stat().st_size:
                os.utime(first, (1, 1))

        with pytest.raises(FormatError, match=r"00001-of-00002\.safetensors: the file changed"):
            file_digests(tmp_path / "m", progress=touch)

    def test_another_file_written_to_meanwhile(self, tiny: Path) -> None:
        def touch(size: int) -> None:
            if size == len(FILES["Upper"]):
                os.utime(tiny / "Upper", (1, 1))

        with pytest.raises(FormatError, match="Upper: the file changed"):
            file_digests(tiny, progress=touch)

    def test_one_error_ends_the_rest(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        monkeypatch.setattr(hashed, "cores", lambda: 2)
        path = write_model(tmp_path / "m.safetensors", {"w": np.zeros(20 * PIECE, "u1")})
        (tmp_path / "small.txt").write_bytes(b"x")
        begun, pieces = Event(), []

        def fail(size: int) -> None:
            if size == 1:
                assert begun.wait(60)
                raise RuntimeError("enough")
            begun.set()
            pieces.append(size)
            time.sleep(0.02)

        with pytest.raises(RuntimeError, match="enough"):
            file_digests(path.parent, progress=fail)
        assert len(pieces) < 20

    def test_a_pipe_is_no_file(self, tiny: Path) -> None:
        os.mkfifo(tiny / "pipe")
        with pytest.raises(FormatError, match="pipe: not a regular file"):
            file_digests(tiny)

    def test_a_link_out_of_the_folder(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "secret").write_text("x")
        (tiny / "notes").symlink_to(tmp_path / "secret")
        with pytest.raises(FormatError, match="notes links to a file outside"):
            file_digests(tiny)

    def test_a_broken_link(self, tiny: Path) -> None:
        (tiny / "gone").symlink_to("nowhere")
        with pytest.raises(FileNotFoundError, match="gone"):
            file_digests(tiny)

    def test_a_name_that_is_not_utf8(self, tiny: Path) -> None:
        (tiny / os.fsdecode(b"caf\xe9")).write_text("x")
        with pytest.raises(FormatError, match="not UTF-8"):
            file_digests(tiny)

    def test_a_file_of_holes(self, tiny: Path) -> None:
        (tiny / "half").touch()
        os.truncate(tiny / "half", 1 << 32)
        with pytest.raises(FormatError, match=r"half: .* never written"):
            file_digests(tiny)

    def test_a_folder_that_goes_away(self, tiny: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        scan = os.scandir

        def gone(path: Any) -> Any:
            if os.fspath(path).endswith("docs"):
                raise FileNotFoundError(2, "gone", os.fspath(path))
            return scan(path)

        monkeypatch.setattr(os, "scandir", gone)
        with pytest.raises(FileNotFoundError, match="docs"):
            file_digests(tiny)


class TestModelSpec:
    def test_the_digest_outlives_a_change_of_the_metadata(self, tmp_path: Path) -> None:
        tensors = small_model()
        plain = write_model(tmp_path / "plain.safetensors", tensors)
        told = write_model(tmp_path / "told.safetensors", tensors, metadata={"title": "x"}, pad=7)
        (one,), (other,) = file_digests(plain).files, file_digests(told).files
        assert one.modelspec == other.modelspec
        assert one.sha256 != other.sha256

    def test_it_is_what_lycoris_writes_for_tensors_in_the_order_of_the_file(
        self, tmp_path: Path
    ) -> None:
        """Value: `lycoris.utils.precalculate_safetensors_hashes` of lycoris-lora 4.1.3."""
        tensors = {"a": np.arange(6, dtype="f4").reshape(2, 3), "b": np.arange(4, dtype="f2")}
        path = write_model(tmp_path / "m.safetensors", tensors)
        (file,) = file_digests(path).files
        assert file.modelspec == (
            "0x9743de9e2d08a2a9ee5b7410b1061c8de132ca9dea575bc8a4289df729785b1c"
        )

    @pytest.mark.parametrize(
        ("spelled", "agrees"),
        [
            ("0x{}", True),
            ("{}", True),
            ("0X{}", True),
            (" 0x{} ", True),
            ("0x" + "0" * 64, False),
            ("", None),
            ("0x123abc", None),
            ("0x0x{}", None),
            ("{}\x1b[2J", None),
        ],
    )
    @pytest.mark.parametrize("key", ["modelspec.hash_sha256", "sshs_model_hash"])
    def test_what_the_file_declares(
        self, tmp_path: Path, key: str, spelled: str, agrees: bool | None
    ) -> None:
        array = np.arange(6, dtype="f4")
        value = spelled.format(sha256(array.tobytes()))
        path = write_model(tmp_path / "m.safetensors", {"w": array}, metadata={key: value})
        (declared,) = file_digests(path).files[0].declared
        assert (declared.key, declared.agrees) == (key, agrees)
        assert declared.value.isprintable()

    def test_upper_case_is_the_same_number(self, tmp_path: Path) -> None:
        array = np.arange(6, dtype="f4")
        metadata = {"sshs_model_hash": sha256(array.tobytes()).upper(), "other": "x"}
        path = write_model(tmp_path / "m.safetensors", {"w": array}, metadata=metadata)
        assert file_digests(path).to_json()["files"][0]["declared"] == [
            {"key": "sshs_model_hash", "value": metadata["sshs_model_hash"], "agrees": True}
        ]

    def test_a_long_text_is_shortened(self, tmp_path: Path) -> None:
        metadata = {"sshs_model_hash": "x" * 1_000_000}
        path = write_model(tmp_path / "m.safetensors", small_model(), metadata=metadata)
        assert len(file_digests(path).files[0].declared[0].value) == 80


class TestSubject:
    def test_it_is_the_real_tools(self, tiny: Path) -> None:
        found = file_digests(tiny)
        assert found.oms is not None
        assert (found.oms.sha256, found.oms.files) == (FOLDER_SUBJECT, 8)
        assert found.signatures == ()

    def test_one_file(self, tiny: Path) -> None:
        found = file_digests(tiny / ONE)
        assert found.oms is not None
        assert (found.oms.sha256, found.oms.files) == (ONE_SUBJECT, 1)

    def test_files_come_in_the_order_of_their_paths_parts(self) -> None:
        digests = {"a.txt": sha256(b"1"), "a/b": sha256(b"2"), "a": sha256(b"3"), "B": sha256(b"4")}
        by_parts = ["B", "a", "a/b", "a.txt"]
        assert subject_of(digests) == sha256(bytes.fromhex("".join(digests[n] for n in by_parts)))

    def test_signature_files_are_no_part_of_it(self, tiny: Path) -> None:
        found = signed(tiny, "model.sig", "second.sig", "blake2.sig")
        assert found.oms is not None
        assert found.oms.sha256 == FOLDER_SUBJECT

    def test_other_files_that_end_in_sig_are(self, tiny: Path) -> None:
        (tiny / "release.sig").write_bytes(b"\x88PGP")
        found = file_digests(tiny)
        assert found.oms is not None
        assert found.oms.files == 9
        assert found.signatures == ()

    def test_a_link_within_the_folder_is_followed_and_said(self, tiny: Path) -> None:
        (tiny / "Upper").rename(tiny / ".github" / "Upper")
        (tiny / "Upper").symlink_to(Path(".github") / "Upper")
        found = file_digests(tiny)
        assert found.oms is not None
        assert (found.oms.sha256, found.oms.has_links) == (FOLDER_SUBJECT, True)

    def test_a_linked_folder_is_not_entered_but_said(self, tiny: Path) -> None:
        (tiny / "more").symlink_to("docs")
        found = file_digests(tiny)
        assert found.oms is not None
        assert (found.oms.sha256, found.oms.has_links) == (FOLDER_SUBJECT, True)

    def test_to_json_is_json(self, tiny: Path) -> None:
        value = signed(tiny, "model.sig").to_json()
        assert json.loads(json.dumps(value)) == value
        assert value["oms"] == {
            "predicate_type": "https://model_signing/signature/v1.0",
            "sha256": FOLDER_SUBJECT,
            "files": 8,
            "has_links": False,
        }
        assert value["signatures"] == [
            {
                "file": "model.sig",
                "name": "tiny",
                "sha256": FOLDER_SUBJECT,
                "agrees": True,
                "reason": None,
            }
        ]
        assert value["files"][1]["declared"] == []


class TestSignatures:
    @pytest.mark.parametrize("name", ["model.sig", "with-git.sig"])
    def test_a_real_one_agrees(self, tiny: Path, name: str) -> None:
        assert (only(signed(tiny, name)).agrees, only(signed(tiny)).reason) == (True, None)

    def test_one_that_names_another_agrees_and_so_does_the_other(self, tiny: Path) -> None:
        found = signed(tiny, "model.sig", "second.sig")
        assert [(s.file, s.agrees) for s in found.signatures] == [
            ("model.sig", True),
            ("second.sig", True),
        ]

    def test_one_that_names_another_which_is_gone(self, tiny: Path) -> None:
        assert only(signed(tiny, "second.sig")).reason == "model.sig is not there"

    @pytest.mark.parametrize(
        ("name", "data", "reason"),
        [
            ("config.json", b"{}", "config.json is not what was signed"),
            ("docs/page", None, "docs/page is not there"),
            ("docs/more", b"", "docs/more was not signed"),
        ],
    )
    def test_any_change_of_the_folder(
        self, tiny: Path, name: str, data: bytes | None, reason: str
    ) -> None:
        if data is None:
            (tiny / name).unlink()
        else:
            (tiny / name).write_bytes(data)
        found = only(signed(tiny, "model.sig"))
        assert (found.agrees, found.reason) == (False, reason)

    def test_git_files_may_change(self, tiny: Path) -> None:
        (tiny / ".gitattributes").write_text("changed")
        (tiny / ".gitignore").write_text("new")
        assert only(signed(tiny, "model.sig")).agrees

    def test_git_files_that_were_signed_may_not(self, tiny: Path) -> None:
        (tiny / ".github" / "flow.yml").write_text("changed")
        found = only(signed(tiny, "with-git.sig"))
        assert found.reason == ".github/flow.yml is not what was signed"

    def test_names_exchanged_under_the_same_subject(self, tiny: Path) -> None:
        """The subject digest alone does not see it: it covers no names."""
        (tiny / "config.json").rename(tiny / "config.yaml")
        found = signed(tiny, "model.sig")
        assert found.oms is not None
        assert found.oms.sha256 == only(found).sha256 == FOLDER_SUBJECT
        assert (only(found).agrees, only(found).reason) == (False, "config.json is not there")

    def test_one_that_leaves_weights_out_never_agrees(self, tiny: Path) -> None:
        found = only(signed(tiny, "without-weights.sig"))
        assert (found.agrees, found.reason) == (False, f"{ONE} was not signed")

    @pytest.mark.parametrize(
        ("name", "kind"), [("shards.sig", "sha256 of shards"), ("blake2.sig", "blake2b of files")]
    )
    def test_digests_of_another_kind_are_not_compared(
        self, tiny: Path, name: str, kind: str
    ) -> None:
        found = only(signed(tiny, name))
        assert found.agrees is None
        assert found.reason is not None
        assert kind in found.reason

    def test_beside_one_file(self, tiny: Path) -> None:
        signed(tiny, "one-file.sig", "model.sig")
        found = only(file_digests(tiny / ONE))
        assert (found.file, found.sha256, found.agrees) == ("one-file.sig", ONE_SUBJECT, True)

    def test_beside_one_file_under_another_name(self, tiny: Path) -> None:
        signed(tiny, "one-file.sig")
        (tiny / ONE).rename(tiny / "renamed.safetensors")
        assert only(file_digests(tiny / "renamed.safetensors")).agrees

    def test_beside_one_file_that_changed(self, tiny: Path) -> None:
        signed(tiny, "one-file.sig")
        write_model(tiny / ONE, small_model())
        found = only(file_digests(tiny / ONE))
        assert (found.agrees, found.reason) == (False, f"{ONE} is not what was signed")

    def test_of_another_file_is_not_listed(self, tiny: Path) -> None:
        signed(tiny, "one-file.sig")
        assert file_digests(tiny / "model-00002-of-00002.safetensors").signatures == ()

    def test_of_one_file_beside_a_folder_that_holds_more(self, tiny: Path) -> None:
        assert only(signed(tiny, "one-file.sig")).agrees is False


def statement(name: str = "model.sig") -> Any:
    envelope = json.loads((DATA / name).read_bytes())["dsseEnvelope"]
    return json.loads(base64.b64decode(envelope["payload"]))


def bundle(payload: Any, kind: str = "application/vnd.in-toto+json") -> bytes:
    data = payload if isinstance(payload, bytes) else json.dumps(payload).encode()
    envelope = {"payloadType": kind, "payload": base64.b64encode(data).decode(), "signatures": []}
    return json.dumps({"dsseEnvelope": envelope}).encode()


def changed(*path: Any, to: Any) -> bytes:
    """A bundle whose statement has another value at a place; `...` takes the place away."""
    found = at = statement()
    for key in path[:-1]:
        at = at[key]
    if to is ...:
        del at[path[-1]]
    else:
        at[path[-1]] = to
    return bundle(found)


RESOURCE = {"name": "x", "algorithm": "sha256", "digest": "0" * 64}

DAMAGED: dict[str, tuple[bytes, str]] = {
    "not JSON": (b"{", "not JSON"),
    "white space, then not JSON": (b" \n {", "not JSON"),
    "a key twice": (b'{"a": 1, "a": 1}', "twice"),
    "nested deep": (b'{"a":' * 100_000, "nested"),
    "a payload that is not base64": (
        b'{"dsseEnvelope": {"payloadType": "application/vnd.in-toto+json", "payload": "*"}}',
        "not base64",
    ),
    "a payload that is a number": (
        b'{"dsseEnvelope": {"payloadType": "application/vnd.in-toto+json", "payload": 1}}',
        "not base64",
    ),
    "a payload beyond ASCII": (
        b'{"dsseEnvelope": {"payloadType": "application/vnd.in-toto+json", "payload": "\\u00e9"}}',
        "not base64",
    ),
    "a payload that is not JSON": (bundle(b"\xff"), "payload: not UTF-8"),
    "another statement type": (changed("_type", to="x"), "_type"),
    "no subject": (changed("subject", to=[]), "one subject"),
    "subjects that are text": (changed("subject", to="x"), "one subject"),
    "two subjects": (changed("subject", to=statement()["subject"] * 2), "one subject"),
    "a subject that is text": (changed("subject", to=["x"]), "subject lacks name"),
    "a subject without digest": (changed("subject", 0, "digest", to=...), "subject lacks digest"),
    "a subject digest of another kind": (
        changed("subject", 0, "digest", to={"sha512": "0" * 128}), "subject lacks sha256",
    ),
    "a subject digest cut short": (
        changed("subject", 0, "digest", "sha256", to="00"), "not a digest",
    ),
    "a subject digest in upper case": (
        changed("subject", 0, "digest", "sha256", to="A" * 64), "not a digest",
    ),
    "another subject digest": (
        changed("subject", 0, "digest", "sha256", to="0" * 64), "do not lead to",
    ),
    "no predicate": (changed("predicate", to=...), "lacks predicate"),
    "no serialization": (changed("predicate", "serialization", to=...), "lacks serialization"),
    "no method": (changed("predicate", "serialization", "method", to=...), "lacks method"),
    "ignored paths that are text": (
        changed("predicate", "serialization", "ignore_paths", to="x"), "ignore_paths",
    ),
    "ignored paths that are numbers": (
        changed("predicate", "serialization", "ignore_paths", to=[1]), "ignore_paths",
    ),
    "resources that are a map": (changed("predicate", "resources", to={}), "lacks resources"),
    "a resource that is null": (
        changed("predicate", "resources", to=[None]), "resource lacks name",
    ),
    "a resource without algorithm": (
        changed("predicate", "resources", 0, "algorithm", to=...), "lacks algorithm",
    ),
    "a resource twice": (changed("predicate", "resources", to=[RESOURCE, RESOURCE]), "x twice"),
    "a file taken out": (
        changed("predicate", "resources", to=statement()["predicate"]["resources"][1:]),
        "do not lead to",
    ),
}  # fmt: skip


class TestHostileSignatures:
    @pytest.mark.parametrize("case", DAMAGED)
    def test_damage_is_named(self, tiny: Path, case: str) -> None:
        data, reason = DAMAGED[case]
        (tiny / "bad.sig").write_bytes(data)
        for source in (tiny, tiny / ONE):
            with pytest.raises(FormatError, match=r"bad\.sig") as caught:
                file_digests(source)
            assert reason in str(caught.value)
            assert "\n" not in str(caught.value)

    @pytest.mark.parametrize(
        "data",
        [
            b"",
            b"\x89\x01PGP",
            b"untrusted comment: minisign\n",
            b"[]",
            b"{}",
            b'{"messageSignature": {"signature": ""}}',
            b'{"dsseEnvelope": null}',
            bundle(statement(), kind="text/plain"),
            bundle([]),
            bundle({"predicateType": "https://slsa.dev/provenance/v1"}),
        ],
    )
    def test_other_signatures_are_let_be(self, tiny: Path, data: bytes) -> None:
        (tiny / "other.sig").write_bytes(data)
        assert file_digests(tiny).signatures == ()

    def test_unknown_keys_are_let_be(self, tiny: Path) -> None:
        (tiny / "model.sig").write_bytes(changed("predicate", "card", to={"score": 0.5}))
        assert only(file_digests(tiny)).agrees

    def test_a_huge_one_is_refused_before_it_is_read(self, tiny: Path) -> None:
        (tiny / "huge.sig").write_bytes(b"{")
        os.truncate(tiny / "huge.sig", MAX_BUNDLE_BYTES + 1)
        with pytest.raises(FormatError, match=r"huge\.sig: 67108865 bytes of signature"):
            file_digests(tiny)

    def test_a_link_out_of_the_folder(self, tiny: Path, tmp_path: Path) -> None:
        (tmp_path / "out").write_bytes(b"{}")
        (tiny / "out.sig").symlink_to(tmp_path / "out")
        for source in (tiny, tiny / ONE):
            with pytest.raises(FormatError, match="outside the model's folder"):
                file_digests(source)

    def test_a_folder_of_that_name_is_none(self, tiny: Path) -> None:
        (tiny / "x.sig").mkdir()
        assert file_digests(tiny).signatures == ()

    def test_leaving_out_everything_agrees_with_nothing(self, tiny: Path) -> None:
        value = statement()
        value["predicate"]["resources"] = []
        value["predicate"]["serialization"]["ignore_paths"] = ["."]
        value["subject"][0]["digest"]["sha256"] = sha256(b"")
        (tiny / "model.sig").write_bytes(bundle(value))
        assert only(file_digests(tiny)).reason == f"{ONE} was not signed"

    def test_names_do_not_steer_a_terminal(self, tiny: Path) -> None:
        value = statement()
        value["subject"][0]["name"] = "\x1b[2J" + "x" * 1000
        value["predicate"]["resources"].append({**RESOURCE, "name": "\x1b[2J"})
        raw = b"".join(bytes.fromhex(r["digest"]) for r in value["predicate"]["resources"])
        value["subject"][0]["digest"]["sha256"] = sha256(raw)
        (tiny / "model.sig").write_bytes(bundle(value))
        found = only(file_digests(tiny))
        assert found.name.isprintable()
        assert len(found.name) == 200
        assert found.reason == "\\x1b[2J is not there"

    def test_names_that_climb_are_only_names(self, tiny: Path) -> None:
        value = statement()
        value["predicate"]["resources"] = [{**RESOURCE, "name": "../../etc/passwd"}]
        value["subject"][0]["digest"]["sha256"] = sha256(bytes(32))
        (tiny / "model.sig").write_bytes(bundle(value))
        assert only(file_digests(tiny)).reason == f"{ONE} was not signed"
