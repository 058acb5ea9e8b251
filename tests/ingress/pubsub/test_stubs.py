"""The stubs say what the vendor's .proto says."""

from __future__ import annotations

import hashlib
import subprocess
import sys
from pathlib import Path

import pytest
from google.protobuf import descriptor_pb2

from infra.pubsub_api import pubsub_api_pb2 as api

ROOT = Path(__file__).parents[3]
FOLDER = ROOT / "infra" / "pubsub_api"
VENDORS = "0a651295ff3ff13551b3ae7cb6fe87cf91b749a8ae33b6079617dbc62f304eb5"


def test_the_protos_text_is_the_vendors_own():
    assert hashlib.sha256((FOLDER / "pubsub_api.proto").read_bytes()).hexdigest() == VENDORS


def test_the_stubs_descriptor_is_the_protos(tmp_path):
    """`make pubsub-stubs` makes them anew."""
    pytest.importorskip("grpc_tools")
    out = tmp_path / "set"
    command = ["-I", str(ROOT), f"--descriptor_set_out={out}", "infra/pubsub_api/pubsub_api.proto"]
    subprocess.run([sys.executable, "-m", "grpc_tools.protoc", *command], check=True, cwd=ROOT)
    (found,) = descriptor_pb2.FileDescriptorSet.FromString(out.read_bytes()).file
    held = descriptor_pb2.FileDescriptorProto()
    api.DESCRIPTOR.CopyToProto(held)
    for each in (found, held):
        each.ClearField("source_code_info")
    for message in (*found.message_type, *held.message_type):
        for field in message.field:
            field.ClearField("json_name")  # protoc spells it out, the stubs leave it to be derived
    assert held == found
