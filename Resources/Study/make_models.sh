#!/bin/sh
# Makes the models that come along, from seeds to cards: make models HEADS=FOLDER. Nothing is made twice; stopped, the same command goes on.
#   HEADS    folder of the 20 label maps (SynthSeg's training_seg_01.nii.gz to training_seg_20.nii.gz)
#   OUTPUT   where all goes, build/models without it; copy OUTPUT/models/* to Resources/Models afterwards
#   SAHLORA  the command, sahlora without it
# About four hours on two cores. The same seeds give the same cases; weights and figures differ a little between processors and versions of PyTorch.
set -eu
fail() { echo "$1" >&2; exit 2; }
[ -n "${HEADS:-}" ] || fail "HEADS is not set: name the folder of the label maps that the heads are made from, such as make models HEADS=heads."
ls "$HEADS"/*.nii.gz > /dev/null 2>&1 || fail "HEADS: there is no label map (*.nii.gz) in $HEADS; name the folder that holds them."
HEADS=$(cd "$HEADS" && pwd)
OUTPUT=${OUTPUT:-build/models}
mkdir -p "$OUTPUT"
cd "$OUTPUT"
sahlora() { "${SAHLORA:-sahlora}" "$@"; }

sahlora phantom --cohort models --heads "$HEADS" --output . --jobs 2
sahlora phantom --cohort paper --heads "$HEADS" --output paper --matrix 256 --jobs 2
# Both cohorts' TBI cases in one table; no head of them is used to choose or to test.
awk -F, -v OFS=, 'FNR == 1 { if (NR == 1) print; next } { where = FILENAME; sub("/[^/]*$", "", where); $2 = where "/" $2; $3 = where "/" $3; print }' \
    tbi-train/cases.csv paper/tbi/cases.csv > tbi.csv

# A model made anew takes a new card, and a new base new adapters. First a narrow network, then the same one made wider: it learns faster so.
[ -f models/tbi-base.safetensors ] || rm -rf models/*.md models/asah-* runs/asah-*
[ -f models/tbi-base.safetensors ] || [ -f narrow/tbi-narrow.safetensors ] || sahlora pretrain tbi.csv --validation tbi-validation/cases.csv \
    --name tbi-narrow --folder narrow --run runs/tbi-narrow --lesion haemorrhage \
    --learning-rate 2e-3 --steps 5500 --steps-per-epoch 500 --crop 176 160 --ema 0.995 --patience 0 --seed 1 --threads 1
[ -f models/tbi-base.safetensors ] || sahlora pretrain tbi.csv --validation tbi-validation/cases.csv --name tbi-base \
    --folder models --run runs/tbi-base --licence Apache-2.0 --lesion haemorrhage --start narrow/tbi-narrow.safetensors --network.growth 16 \
    --description "Multi-view Unet for traumatic intracranial haemorrhage, trained on synthetic head CT." \
    --learning-rate 1.2e-3 --steps 5000 --steps-per-epoch 500 --crop 176 160 --ema 0.995 --patience 0 --seed 6 --threads 1

# NAME METHOD RANK LEARNING-RATE DESCRIPTION
adapt() {
    [ -f "models/$1.safetensors" ] || rm -f "models/$1.md"
    [ -f "models/$1.safetensors" ] || sahlora train asah-train/cases.csv --validation asah-validation/cases.csv --folds 0 \
        --base models/tbi-base.safetensors --name "$1" --folder models --run "runs/$1" --licence Apache-2.0 --lesion subarachnoid \
        --description "$5" --adapter.method "$2" --adapter.rank "$3" --adapter.norm adapt \
        --learning-rate "$4" --steps 500 --steps-per-epoch 100 --crop 176 160 --ema 0.98 --patience 0 --seed 1 --threads 1
}
adapt asah-cp-lora cp-lora 64 5e-3 "CP-LoRA adapter of rank 64 for aneurysmal subarachnoid haemorrhage, trained on synthetic head CT."
adapt asah-conv-lora conv-lora 32 2e-3 "convLoRA adapter of rank 32 for aneurysmal subarachnoid haemorrhage, trained on synthetic head CT."

echo "make models HEADS=heads" > commands.txt
# NAME COHORT TITLE …: figures on heads that no training and no choice has seen
card() {
    model=$1 cohort=$2 title=$3
    shift 3
    [ -f "models/$model.md" ] || sahlora card "models/$model.safetensors" --cases "$cohort/cases.csv" --title "$title" --commands commands.txt "$@"
}
card tbi-base tbi-test "Held-out synthetic TBI (heads 18-20)"
card asah-cp-lora asah-test "Held-out synthetic aSAH (heads 18-20)" --validation asah-validation/cases.csv
card asah-conv-lora asah-test "Held-out synthetic aSAH (heads 18-20)" --validation asah-validation/cases.csv
