#!/bin/bash
# band in a micromamba environment on the shared home: made once on the login node with
#     micromamba create -n band -c conda-forge python=3.11 && micromamba run -n band pip install .
# README.md beside this file says how a template is read. Change what differs on your cluster, then try it with doctor.

# Remove one # to choose: `sinfo -s` lists partitions, `sacctmgr show assoc user=$USER` accounts.
##SBATCH --partition=gpu
##SBATCH --account=my-lab
##SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=08:00:00

# A disk of the node itself that outlives the job; without this line band looks for one.
#export BAND_SCRATCH="/scratch/${USER:-$(id -un)}/band"

# Where micromamba and its environments are; what the submitting shell has set goes first.
export MAMBA_EXE="${MAMBA_EXE:-$HOME/.local/bin/micromamba}"
export MAMBA_ROOT_PREFIX="${MAMBA_ROOT_PREFIX:-$HOME/micromamba}"
eval "$("$MAMBA_EXE" shell hook --shell bash --root-prefix "$MAMBA_ROOT_PREFIX")" || exit 72
micromamba activate band || exit 72
