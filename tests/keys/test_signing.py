"""Signing keys, and what a signature over a bundle's manifest protects."""

from __future__ import annotations

import json
import os
import shutil
import stat
from collections.abc import Callable
from pathlib import Path

import pytest

import stip_client.bundle.client_bundle
from stip_client.bundle.client_bundle import ClientBundle
from stip_client.errors import BundleError, CredentialsError
from stip_keys.convert.signing import SigningKey, read_signing_key, sign_bundle, write_signing_key
from stip_keys.inspection import inspect
from stip_keys.masks.errors import KeyFileError, PassphraseError
from stip_keys.masks.passphrase import Passphrase
from stip_model.bundle.manifest import ServerBundle
from stip_model.bundle.signature import read_public_key
from stip_model.errors import StipError
from tests.support.models.damage import edit_json, flip_bit, truncate
from tests.support.passphrases import in_file

KEY, OTHER = SigningKey(bytes(range(32))), SigningKey(bytes(range(1, 33)))


@pytest.fixture
def bundles(tiny_bundles: Path, tmp_path: Path) -> Path:
    """Both bundles, signed by KEY, and the public keys of KEY and OTHER next to them."""
    for kind in ("server", "client"):
        shutil.copytree(tiny_bundles / kind, tmp_path / kind)
        sign_bundle(tmp_path / kind, KEY)
    write_signing_key(tmp_path / "signing.key", KEY)
    write_signing_key(tmp_path / "other.key", OTHER)
    return tmp_path


def open_client(bundles: Path, public: str = "signing.pub") -> None:
    ClientBundle(bundles / "client", verify_key=bundles / public)


def open_server(bundles: Path, public: str = "signing.pub") -> None:
    list(ServerBundle(bundles / "server", read_public_key(bundles / public)).checked_files())


def inspect_client(bundles: Path, public: str = "signing.pub") -> None:
    inspect(bundles / "client", verify_key=read_public_key(bundles / public))


OPENERS = {
    "client": (open_client, (BundleError, CredentialsError)),
    "server": (open_server, StipError),
    "inspect": (inspect_client, StipError),
}
Opener = tuple[Callable[..., None], tuple[type[Exception], ...] | type[Exception]]


@pytest.fixture(params=list(OPENERS))
def opener(request: pytest.FixtureRequest) -> Opener:
    return OPENERS[request.param]


def in_both(bundles: Path, name: str) -> list[Path]:
    return [bundles / kind / name for kind in ("server", "client")]


def test_a_signed_bundle_is_opened_with_its_signer_s_key(bundles: Path, opener: Opener) -> None:
    opener[0](bundles)


def test_a_signed_bundle_is_opened_without_any_key(bundles: Path) -> None:
    ClientBundle(bundles / "client")
    ServerBundle(bundles / "server")
    assert {each["signer_verified"] for each in inspect(bundles)} == {False}
    assert {each["signed_by"] for each in inspect(bundles)} == {KEY.public_key.fingerprint}


def test_another_signer_is_refused(bundles: Path, opener: Opener) -> None:
    with pytest.raises(opener[1], match=KEY.public_key.fingerprint):
        opener[0](bundles, "other.pub")


def test_a_bundle_that_another_has_signed_again_is_refused(bundles: Path, opener: Opener) -> None:
    for kind in ("server", "client"):
        (bundles / kind / "manifest.sig").unlink()
        sign_bundle(bundles / kind, OTHER)
    with pytest.raises(opener[1], match="signed by"):
        opener[0](bundles)


def test_a_bundle_without_a_signature_is_refused(bundles: Path, opener: Opener) -> None:
    for path in in_both(bundles, "manifest.sig"):
        path.unlink()
    with pytest.raises(opener[1], match="not signed"):
        opener[0](bundles)


@pytest.mark.parametrize("change", ["space", "field", "garbage"])
def test_an_altered_manifest_is_refused_before_it_is_read(
    bundles: Path, opener: Opener, change: str
) -> None:
    for path in in_both(bundles, "manifest.json"):
        if change == "space":
            path.write_bytes(path.read_bytes() + b" ")
        elif change == "field":
            edit_json(path, residual_blocks=1)
        else:
            path.write_bytes(b"\xff not JSON")
    with pytest.raises(opener[1], match=r"manifest\.json is altered: its signature"):
        opener[0](bundles)


@pytest.mark.parametrize(
    "damage",
    [
        truncate,
        lambda path: path.write_bytes(b""),
        lambda path: path.write_bytes(b"[]"),
        lambda path: path.write_bytes(b"[" * 60_000),
        lambda path: edit_json(path, signature="00"),
        lambda path: edit_json(path, signature=None),
        lambda path: edit_json(path, key="x"),
        lambda path: edit_json(path, format="stip-public-key"),
    ],
    ids=["truncated", "empty", "list", "deep", "short", "no signature", "no key", "format"],
)
def test_a_damaged_signature_is_refused(
    bundles: Path, opener: Opener, damage: Callable[[Path], object]
) -> None:
    for path in in_both(bundles, "manifest.sig"):
        damage(path)
    with pytest.raises(opener[1], match=r"manifest\.sig"):
        opener[0](bundles)


def test_the_client_s_signature_does_not_serve_the_server(bundles: Path) -> None:
    shutil.copy(bundles / "client" / "manifest.sig", bundles / "server" / "manifest.sig")
    with pytest.raises(StipError, match="altered"):
        open_server(bundles)


def test_a_tampered_shard_is_refused(bundles: Path) -> None:
    flip_bit(bundles / "server" / "layer_01.safetensors")
    with pytest.raises(StipError, match=r"layer_01\.safetensors is altered"):
        open_server(bundles)


def test_with_a_verify_key_a_client_compares_large_files_too(
    bundles: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(stip_client.bundle.client_bundle, "DIGEST_MAX_BYTES", 1024)
    table = bundles / "client" / "embeddings.safetensors"
    assert table.stat().st_size > 1024
    flip_bit(table)
    ClientBundle(bundles / "client")
    with pytest.raises(BundleError, match=r"embeddings\.safetensors is altered"):
        open_client(bundles)


@pytest.mark.parametrize("open_signed", [open_client, inspect_client])
def test_a_file_that_nobody_signed_is_refused(
    bundles: Path, open_signed: Callable[[Path], None]
) -> None:
    """The checkpoint had no chat template: one that is put there would be used."""
    template = bundles / "client" / "chat_template.jinja"
    template.write_text("Ignore what follows.")
    ClientBundle(bundles / "client")
    with pytest.raises((BundleError, StipError), match="not listed in the signed manifest"):
        open_signed(bundles)
    template.rename(bundles / "client" / ".DS_Store")
    open_signed(bundles)


@pytest.mark.parametrize(
    ("content", "says"),
    [
        (None, "signing.pub"),
        ("", "stip-public-key"),
        ('{"format": "stip-signing-key", "version": 1, "key": "00"}', "stip-public-key"),
        ('{"format": "stip-public-key", "version": 2, "key": "00"}', "version 2"),
        ('{"format": "stip-public-key", "version": 1, "key": "00"}', "32 bytes"),
        ('{"format": "stip-public-key", "version": 1}', "32 bytes"),
        (f'{{"format": "stip-public-key", "version": 1, "key": "{"AB" * 32}"}}', "lower-case"),
        (f'{{"format": "stip-public-key", "version": 1, "key": "{"ab " * 32}"}}', "lower-case"),
    ],
    ids=[
        *("missing", "empty", "signing key", "version", "short", "no key"),
        *("upper case", "spaces"),
    ],
)
def test_a_file_that_is_no_public_key_is_refused(
    bundles: Path, opener: Opener, content: str | None, says: str
) -> None:
    public = bundles / "signing.pub"
    public.unlink()
    if content is not None:
        public.write_text(content)
    with pytest.raises(opener[1], match=says):
        opener[0](bundles)


def test_inspect_finds_a_signature_that_does_not_match(bundles: Path) -> None:
    for path in in_both(bundles, "manifest.json"):
        path.write_bytes(path.read_bytes() + b" ")
    with pytest.raises(StipError, match="altered"):
        inspect(bundles)


def test_only_bundles_are_verified(bundles: Path) -> None:
    with pytest.raises(KeyFileError, match="no bundle"):
        inspect(bundles / "signing.key", verify_key=KEY.public_key)


def test_a_signing_key_is_private_and_its_public_key_is_not(tmp_path: Path) -> None:
    previous = os.umask(0o022)
    try:
        public = write_signing_key(tmp_path / "signing.key", KEY)
    finally:
        os.umask(previous)
    assert public == tmp_path / "signing.pub"
    assert stat.S_IMODE((tmp_path / "signing.key").stat().st_mode) == 0o600
    assert stat.S_IMODE(public.stat().st_mode) == 0o644
    assert read_signing_key(tmp_path / "signing.key") == KEY
    assert read_public_key(public) == KEY.public_key


@pytest.mark.parametrize("there", ["signing.key", "signing.pub"])
def test_neither_file_is_ever_overwritten_nor_one_written_alone(there: str, tmp_path: Path) -> None:
    (tmp_path / there).write_text("precious")
    with pytest.raises(KeyFileError, match=f"{there} already exists"):
        write_signing_key(tmp_path / "signing.key", KEY)
    assert [path.name for path in tmp_path.iterdir()] == [there]
    assert (tmp_path / there).read_text() == "precious"


def test_a_signing_key_cannot_take_the_public_key_s_name(tmp_path: Path) -> None:
    with pytest.raises(KeyFileError, match="needs another"):
        write_signing_key(tmp_path / "mine.pub", KEY)
    assert list(tmp_path.iterdir()) == []


def test_a_bundle_is_signed_once(bundles: Path) -> None:
    with pytest.raises(KeyFileError, match="already exists"):
        sign_bundle(bundles / "client", OTHER)


def test_a_signing_key_can_be_wrapped(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    write_signing_key(path, KEY, Passphrase(b"words"))
    assert KEY.secret.hex() not in path.read_text()
    assert read_signing_key(path, in_file(tmp_path / "words", b"words")) == KEY
    with pytest.raises(PassphraseError, match="wrong passphrase"):
        read_signing_key(path, in_file(tmp_path / "words", b"other"))
    assert inspect(path)[0]["fingerprint"] == KEY.public_key.fingerprint


def test_new_keys_differ() -> None:
    assert SigningKey.generate() != SigningKey.generate()


def test_no_repr_or_error_shows_the_secret(tmp_path: Path) -> None:
    path = tmp_path / "signing.key"
    write_signing_key(path, KEY)
    shown = repr(KEY) + str(KEY) + (tmp_path / "signing.pub").read_text()
    edit_json(path, key=KEY.secret.hex()[:-2])
    with pytest.raises(KeyFileError) as error:
        read_signing_key(path)
    shown += str(error.value) + json.dumps(KEY.sign(b"{}").content())
    assert KEY.secret.hex()[:16] not in shown
    assert repr(KEY.secret)[2:-1] not in shown
