#!/usr/bin/env bash
# What single stages give to m3-mini: its fine-tuning, 300 steps long, without them.
#   eval/mini_ablations.sh CHAIN SETS [OUT]
# CHAIN: the folder of trainer/make_mini.sh. SETS: the folder of the sets. OUT: the checkpoints and
# their reports, by default checkpoints/mini-ablations. What is there is not made again.
set -euo pipefail
chain=${1:?the folder of trainer/make_mini.sh}
sets=${2:?the folder of the sets}
out=${3:-checkpoints/mini-ablations}
recipes=$(dirname "$0")/../trainer/recipes
suite=$(dirname "$0")/suites/mini-ablation.toml

# train NAME RECIPE START [SETTING...]: the recipe from the folder START, and what was stopped goes on
train() {
  local folder=$out/$1 recipe=$2 start=$3 resume=()
  shift 3
  if [ -e "$folder/m3.json" ]; then return; fi
  if [ -e "$folder/training_state.pt" ]; then resume=(--resume); fi
  m3search train "$recipes/$recipe.toml" --set "data.folder=$chain/data" --set "start.checkpoint=$start" \
    --set output.save_every=50 --set output.log_every=10 "$@" ${resume[@]+"${resume[@]}"} --out "$folder"
}

# fine_tuned NAME START [SETTING...]: 300 steps of fine-tuning, and its report
fine_tuned() {
  local name=$1 start=$2
  shift 2
  train "$name" mini-finetune "$start" --set "distillation.teacher=$chain/all-MiniLM-L6-v2" \
    --set optimiser.steps=300 --set objective.self_distill_start_step=30 "$@"
  if [ ! -e "$out/reports/$name/report.json" ]; then
    m3search eval "$suite" --model "$out/$name" --data "$sets" --out "$out/reports/$name"
  fi
}

fine_tuned whole "$chain/contrastive"
fine_tuned no-self-distillation "$chain/contrastive" --set objective.self_distill=false
fine_tuned no-contrastive "$chain/distil"
train retromae retromae "$chain/distil" --set data.passage_max_length=224 --set optimiser.steps=150 \
  --set 'data.sources=[{files="text.*.jsonl.gz"}]'
fine_tuned retromae-no-contrastive "$out/retromae"
