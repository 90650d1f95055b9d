#!/bin/sh
# Memory plans against measured peaks (anonymous memory) on models of published shapes with random weights.
#   benches/memory.sh small   SmolLM2-135M in Q8_0: a grid of settings, a minute or two
#   benches/memory.sh large   Qwen3-VL-2B in Q4_K_M: one step of 320 + 8 x 64 tokens within 1.5 GiB
# Files (0.2 and 1.3 GB) go to $TMPDIR and are removed in the end. THREADS is the number of threads, by default 2.
set -eu

threads="${THREADS:-2}"
folder="$(mktemp -d)"
trap 'rm -rf "$folder"' EXIT INT TERM
cd "$(dirname "$0")/.."

owlet() { cargo run --quiet --locked -- "$@"; }
measure() { cargo bench --quiet --profile dev --locked --bench memory -- "$@"; }

case "${1:-}" in
    small)
        owlet synth --preset smollm2-135m --type Q8_0 --threads "$threads" --out "$folder/model.gguf"
        # PROMPT COMPLETION GROUP RANK THREADS [BUDGET_MIB]
        for setting in "320 64 8 8" "320 64 4 16" "1024 32 8 8" "128 128 8 4"; do
            # shellcheck disable=SC2086 # a setting is several numbers
            measure "$folder/model.gguf" $setting "$threads"
        done
        measure "$folder/model.gguf" 320 64 8 8 "$threads" 600
        measure "$folder/model.gguf" 320 64 8 8 "$threads" 400
        ;;
    large)
        owlet synth --preset qwen3-vl-2b --type Q4_K_M --threads "$threads" --out "$folder/model.gguf"
        measure "$folder/model.gguf" 320 64 8 8 "$threads" 1536
        ;;
    *)
        echo "usage: benches/memory.sh small|large" >&2
        exit 1
        ;;
esac
