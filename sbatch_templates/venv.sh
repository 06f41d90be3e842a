#!/bin/bash
# band in a Python virtual environment on the shared home: made once on the login node with
#     python3 -m venv ~/band-venv && ~/band-venv/bin/pip install .
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

source "$HOME/band-venv/bin/activate" || exit 72
