#!/usr/bin/env bash
# The commands of README and docs that need a network, other programs, or more than a minute: those that
# tests/cli/docs.rs does not run. Give it an empty folder with room for a few gigabytes:
#
#     tests/long.sh /tmp/long
#
# Endless ones get a time limit. What fails is said at the end.
set -u
repository=$(cd "$(dirname "$0")/.." && pwd)
folder=${1:?which folder to work in}
mkdir -p "$folder"
failed=()
run() { echo "== $*"; eval "$*" || failed+=("$*"); }
# Stopped after so many seconds, which is what is wanted.
for_a_while() { echo "== $2"; timeout -s INT "$1" bash -c "$2"; case $? in 0|124|130) ;; *) failed+=("$2");; esac; }

cd "$repository"
run cargo build --release --locked
export PATH="$repository/target/release:$PATH"
run cargo test --release --workspace
run cargo install --locked --path . --root "$folder/installed"
run cargo bench --bench kernels
run cargo bench --bench data
run cargo run --release -- demo --out "$folder/demo"
run pip install ./python
run python/test.sh
run pip install torch transformers matplotlib
run python python/examples/bench_layer.py --plot layer.svg
run python python/examples/gpt2.py
run python python/examples/gpt2.py --layers 12 --width 768 --heads 12 --batch 2 --context 512 --steps 200

cd "$folder"
run mediswift data fetch 1-20 --out pubmed
run mediswift data prepare pubmed --out dataset --vocab-size 8192
run mediswift pretrain --preset tiny --sparsity 0.75 --data dataset --out run --set train.steps=50
for_a_while 600 "mediswift data fetch all --out pubmed"
for_a_while 60 "mediswift data fetch all --out updates --base-url https://ftp.ncbi.nlm.nih.gov/pubmed/updatefiles/"

# Studies of the results, on what was fetched; the runs take hours on two cores.
cp -r "$repository/docs" docs
run mediswift data prepare pubmed --out abstracts --vocab-size 2048
run mediswift study docs/results/losses.toml docs/results/speedup.toml docs/results/equal-weights.toml \
    docs/results/moving-masks.toml docs/results/families.toml --data abstracts --out results
run mediswift study docs/results/savings.toml --data abstracts --out savings
# Fails unless the tasks' files lie in the folder's hoc and pubmedqa (docs/fine-tuning.md).
run mediswift study docs/results/fine-tuning.toml --data abstracts --data hoc=hoc --data pubmedqa=pubmedqa --out tuned
run mediswift study docs/results/sixteen-bits/study.toml --data abstracts --data hoc=hoc --out tuned-in-16-bits

run mediswift bench layer --plot speedup.svg
run mediswift bench layer --full --plot full.svg
run mediswift bench layer --shape 4096x4096 --dense libopenblas.so.0

for_a_while 5 "mediswift serve run --port 8080"
for_a_while 5 "mediswift serve run"
for_a_while 5 "mediswift serve run --port 0 --json"
mkdir -p runs && cp -r run runs/small-75
for_a_while 5 "tail -f runs/small-75/metrics.jsonl"
run pip install tensorboard
for_a_while 20 "tensorboard --logdir runs"

run 'pip install "lm-eval[api]"'
mediswift serve run &
server=$!
run lm_eval --model local-completions --tasks pubmedqa --model_args \
  model=run,base_url=http://127.0.0.1:8080/v1/completions,tokenizer_backend=remote,max_length=1024,batch_size=16
kill "$server"

# Several ranks, on as many cores as there are.
export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMPI_MCA_rmaps_base_oversubscribe=1
cd "$repository"
run cargo install --locked --path . --features mpi --root "$folder/mpi"
export PATH="$folder/mpi/bin:$PATH"
mkdir -p "$folder/ranks" && cd "$folder/ranks" && ln -sfn ../dataset dataset
run mpirun -n 2 --bind-to none mediswift doctor
run mpirun -n 4 mediswift bench comm
# Where there is Slurm.
! command -v srun || run srun mediswift bench comm --largest 64 --json
for_a_while 60 "mpirun -n 4 --bind-to none mediswift pretrain --preset small --sparsity 0.75 --data dataset --out run"
for_a_while 60 "mpirun -n 2 --bind-to none mediswift pretrain --resume --data dataset --out run"

for failure in "${failed[@]:-}"; do [ -z "$failure" ] || echo "FAILED: $failure"; done
[ ${#failed[@]} -eq 0 ]
