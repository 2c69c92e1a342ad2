"""A robot that uses openpi-client, in an environment of its own: prints what it gets as JSON. Arguments: URL, key.

With `--record FILE` it also writes the frames that the client sends.
"""

import base64
import json
import sys
from pathlib import Path

import numpy as np
from openpi_client import msgpack_numpy
from openpi_client.action_chunk_broker import ActionChunkBroker
from openpi_client.websocket_client_policy import WebsocketClientPolicy

STEPS = 2
FRAMES = []


class RecordingPacker(msgpack_numpy.Packer.func):
    def pack(self, obj):
        frame = super().pack(obj)
        FRAMES.append(base64.b64encode(frame).decode())
        return frame


def main(url: str, key: str) -> None:
    client = WebsocketClientPolicy(host=url, api_key=key)
    client._packer = RecordingPacker(default=msgpack_numpy.pack_array)
    metadata, policy = client.get_server_metadata(), ActionChunkBroker(client, action_horizon=STEPS)
    position, path, statuses = np.array([-1.0, -1.0]), [], []
    for number in range(12):
        observation = {"position": position.astype(np.float32), "goal.position": np.array([1.0, 0.5])}
        observation |= {"tolerance.position": 0.1, "prompt": "go there", "reset": number == 0}
        if number == 10:
            observation["tolerance.position"] = np.float32(0.1)
        reply = policy.infer(observation)
        assert reply["actions"].dtype == np.float32, reply["actions"].dtype
        assert reply["actions"].shape == reply["actions.push"].shape == (2,)
        position = 0.9 * position + reply["actions"]
        path.append(position.tolist())
        statuses.append(reply["status"])
    print(json.dumps({"world": metadata["world"], "path": path, "statuses": statuses}))


main(*sys.argv[1:3])
if "--record" in sys.argv:
    Path(sys.argv[sys.argv.index("--record") + 1]).write_text(json.dumps(FRAMES, indent=0))
