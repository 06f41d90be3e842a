#!/bin/bash
# torch and the trainer in an Apptainer image; what stages, supervises and publishes runs is outside of it, on any
# Python 3.10 to 3.13 that has submitit, made once on the login node with
#     python3 -m venv ~/band-plain && ~/band-plain/bin/pip install submitit
# The image needs a Python like that with torch, numpy and h5py. Both take band's own code from the sweep's snapshot.
# README.md beside this file says how a template is read. Change what differs on your cluster, then try it with doctor.

# Remove one # to choose: `sinfo -s` lists partitions, `sacctmgr show assoc user=$USER` accounts.
##SBATCH --partition=gpu
##SBATCH --account=my-lab
##SBATCH --gres=gpu:1
#SBATCH --cpus-per-task=2
#SBATCH --mem=4G
#SBATCH --time=08:00:00

# A disk of the node itself that outlives the job. Named here, because the container sees only what is bound into it.
export BAND_SCRATCH="${BAND_SCRATCH:-/tmp/band-${USER:-$(id -un)}}"
mkdir -p -m 700 "$BAND_SCRATCH"

export PATH="$HOME/band-plain/bin:$PATH"

# --nv shows the node's GPUs inside, and says no more than a warning where there are none. Bind every folder that holds
# sweeps, recordings or scratch; $HOME and $PWD usually are. Paths with blanks need quotes of their own in this value.
image="$HOME/band.sif"
export BAND_TRAINER="apptainer exec --nv --bind $BAND_SCRATCH --bind $HOME $image python -m band.train.worker"
