"""From texts and pairs to an M3 checkpoint.

recipe, inputs            what a TOML file may say
data, sources             training files in; passages with their questions
lengths, batching, drawing  which passages meet in a step, and which texts of them
encoding, representations, maxsim, losses   texts through the model in parts; scores; the loss
finetuning, distilling, pretraining   one step of each stage, over all processes (devices)
imitation                 what a student is to learn of a teacher
masking, prediction, cross_entropy, retromae, positions   RetroMAE and longer encoders
start, optimiser, state, run, loop   a training from its start to its checkpoint
opening, watching, development, refreshing, moment   what a run says, logs, measures and mines
mining                    hard negatives from an index
"""
