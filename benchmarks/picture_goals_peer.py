"""The Two Rooms environment of stable-worldmodel: runs in the peers' environment and imports nothing of worldline.

`python picture_goals_peer.py record FOLDER` writes `expert.h5` and `random.h5`, 150 episodes of each policy.
`python picture_goals_peer.py serve` reads one JSON line per request: {"reset": [x, y]} or {"step": [x, y]}. It answers
with a JSON line of the position in pixels of 224, followed by the image, 64 * 64 * 3 bytes.
"""

from __future__ import annotations

import json
import sys
import warnings
from importlib import import_module
from pathlib import Path
from typing import Any

EPISODES = 150
MAX_STEPS = 60
SIDE = 64


def record(folder: Path) -> None:
    """Writes the logs of both policies."""
    expert = import_module("stable_worldmodel.envs.two_room.expert_policy").ExpertPolicy(action_noise=1.0, seed=0)
    policies = {"expert": expert, "random": import_module("stable_worldmodel.policy").RandomPolicy(seed=1)}
    for number, (name, policy) in enumerate(policies.items()):
        world = import_module("stable_worldmodel").World(
            "swm/TwoRoom-v1", num_envs=4, image_shape=(SIDE, SIDE), max_episode_steps=MAX_STEPS
        )
        world.set_policy(policy)
        path = folder / f"{name}.h5"
        world.collect(path=str(path), episodes=EPISODES, seed=1000 * number, format="hdf5", progress=False)
        world.close()


def serve() -> None:
    """Answers requests until the input ends."""
    import numpy as np
    from PIL import Image

    env: Any = import_module("stable_worldmodel.envs.two_room.env").TwoRoomEnv(render_mode="rgb_array")
    for line in sys.stdin:
        request = json.loads(line)
        if "reset" in request:
            state = np.array(request["reset"], np.float32)
            # The target only ends episodes; it stands where it is never reached.
            _, info = env.reset(seed=0, options={"state": state, "target_state": np.full(2, -100, np.float32)})
        else:
            _, _, _, _, info = env.step(np.array(request["step"], np.float32))
        image = Image.fromarray(env.render()).resize((SIDE, SIDE), Image.Resampling.BILINEAR)
        sys.stdout.buffer.write(json.dumps([float(x) for x in info["proprio"]]).encode() + b"\n")
        sys.stdout.buffer.write(np.asarray(image).tobytes())
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    warnings.simplefilter("ignore")
    if sys.argv[1] == "record":
        record(Path(sys.argv[2]))
    else:
        serve()
