#!/bin/sh
# Measures benches/peer/step.py with and without checkpointing and with micro-batches of 1, 2 and 4, a process each, and
# prints a line of JSON for each. Arguments go to step.py. OWLET_PEER_PYTHON names an interpreter that has the packages of
# requirements.txt; without it they are installed into target/bench-peer.
set -eu
here=$(cd "$(dirname "$0")" && pwd)
python=${OWLET_PEER_PYTHON:-}
if [ -z "$python" ]; then
    python=$here/../../target/bench-peer/bin/python
    if ! "$python" -c 'import peft, torch, transformers' 2>/dev/null; then
        python3 -m venv "$here/../../target/bench-peer"
        "$python" -m pip install --requirement "$here/requirements.txt" >&2
    fi
fi
for micro_batch in 1 2 4; do
    "$python" "$here/step.py" --micro-batch $micro_batch "$@"
    "$python" "$here/step.py" --micro-batch $micro_batch --checkpointing "$@"
done
