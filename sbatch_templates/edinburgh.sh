#!/bin/bash
# A home that all nodes share, and on each node a large /disk/scratch that outlives the job, as on the clusters of the
# School of Informatics in Edinburgh. band in a virtual environment, or else a conda environment, at home.
# README.md beside this file says how a template is read. Change what differs on your cluster, then try it with doctor.

# Remove one # to choose: `sinfo -s` lists partitions, `sinfo -o "%G"` the kinds of GPU.
##SBATCH --partition=PGR-Standard
#SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=2
#SBATCH --mem=14000
#SBATCH --time=08:00:00

# Recordings are copied here once a node, and stay for the next job; results and checkpoints go home.
export BAND_SCRATCH="/disk/scratch/${USER:-$(id -un)}/band"

if [ -r "$HOME/band-venv/bin/activate" ]; then
    source "$HOME/band-venv/bin/activate" || exit 72
else
    source "$HOME/miniconda3/etc/profile.d/conda.sh" || exit 72
    conda activate band || exit 72
fi
