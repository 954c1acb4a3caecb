"""The generated code belongs to the .proto files beside it."""

import subprocess
import sys
from pathlib import Path

from protos import csi_pb2

ROOT = Path(__file__).resolve().parents[2]


def test_generated_code_is_fresh() -> None:
    checked = subprocess.run(
        [sys.executable, "scripts/generate-protos", "--check"], cwd=ROOT, check=False, capture_output=True, text=True
    )

    assert (checked.returncode, checked.stderr) == (0, "")


def test_every_field_named_secrets_is_marked() -> None:
    messages = csi_pb2.DESCRIPTOR.message_types_by_name.values()
    fields = [message.fields_by_name["secrets"] for message in messages if "secrets" in message.fields_by_name]

    assert len(fields) > 10
    assert all(field.GetOptions().Extensions[csi_pb2.csi_secret] for field in fields)
