#!/usr/bin/env bash
# m3-mini from its training files to a checkpoint, all stages one after the other.
#   trainer/make_mini.sh DATA [OUT]
# DATA: the folder of the training files. OUT: where the stages put theirs, by default
# checkpoints/mini. What is finished is kept, and what was stopped goes on: the same command again.
# SUB_BATCH_TOKENS=131072 in front makes full use of a GPU with 16 GB to spare.
set -euo pipefail
data=${1:?the folder of the training files}
out=${2:-checkpoints/mini}
here=$(dirname "$0")
english=$out/all-MiniLM-L6-v2
shopt -s nullglob
parts=(${SUB_BATCH_TOKENS:+--set "batches.sub_batch_tokens=$SUB_BATCH_TOKENS"})

# make FOLDER COMMAND...: runs the command, which ends in --out or the like, with a folder that gets
# its name when all is in it; a training in such a folder goes on, anything else begins again
make() {
  local folder=$1
  shift
  if [ -e "$folder" ]; then
    echo "== $folder is there"
    return
  fi
  echo "== $folder"
  if [ ! -e "$folder.partial/training_state.pt" ]; then rm -rf "$folder.partial"; fi
  "$@" "$folder.partial"
  mv "$folder.partial" "$folder"
}

# train STAGE START [SETTING...]: the recipe mini-STAGE.toml, from the folder START
train() {
  local stage=$1 start=$2 resume=()
  shift 2
  if [ -e "$out/$stage.partial/training_state.pt" ]; then resume=(--resume); fi
  make "$out/$stage" m3search train "$here/recipes/mini-$stage.toml" --set "data.folder=$data" \
    --set "start.checkpoint=$start" ${parts[@]+"${parts[@]}"} "$@" ${resume[@]+"${resume[@]}"} --out
}

# title_bodies FOLDER: pairs of all unlabelled texts, a file for each language
title_bodies() {
  local file name
  mkdir -p "$1"
  for file in "$data"/text.*.jsonl.gz; do
    name=$(basename "$file" .jsonl.gz)
    name=${name#text.}
    # a file of several languages names them in its lines
    python "$here/title_body_pairs.py" "$file" --out "$1/bodies-$name.jsonl.gz" --per-query 4 --max-body 2000
  done
}

# what a stage lacks is said before the first one runs for hours
python "$here/missing_sources.py" "$data" "$here"/recipes/mini-{distil,contrastive,finetune,long}.toml \
  --made "bodies-*" "rough-*" "dictionary.*"
make "$english" python "$here/fetch_minilm.py"
make "$out/dictionaries" python "$here/fetch_dictionaries.py" "$data" --out
make "$out/rough" python "$here/word_by_word.py" "$out"/dictionaries/*.tsv.gz \
  --english "$data"/{tatoeba,stories}.*-en.jsonl.gz --out
make "$out/bodies" title_bodies
mkdir -p "$out/data"
ln -sf "$(realpath "$data")"/* "$(realpath "$out")"/{dictionaries,rough,bodies}/*.gz "$out/data/"
make "$out/tokenizer" python "$here/train_tokenizer.py" "$data" --pieces 94000 --old "$english" --out
make "$out/swapped" python "$here/swap_vocabulary.py" "$english" "$out/tokenizer" --embedding-size 128 \
  --texts "$data"/*.en.jsonl.gz --lexicons "$out/data" \
  --parallel "$data"/{apps,android,bible,crossqa-parallel,gnomehelp,guides,lafand,nusax,pud,pydocs,stories,tatoeba,tico19,tldr,wmt,written-parallel}.*-en.jsonl.gz \
  --out
data=$out/data
teacher=(--set "distillation.teacher=$english")
train distil "$out/swapped" "${teacher[@]}"
train contrastive "$out/distil" "${teacher[@]}"
train finetune "$out/contrastive" "${teacher[@]}"
train long "$out/finetune" "${teacher[@]}"
# the same weights, but stems in place of words as terms, and terms count by how rare they are
make "$out/m3-mini" python "$here/average_checkpoints.py" "$out/long" --word-terms stems --idf \
  --fusion-weights 0.5 1 1 --out
