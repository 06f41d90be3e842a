#!/bin/bash
# Python from an environment module (Lmod or Environment Modules), band in a virtual environment on top of it, made once
# on the login node with
#     module load python/3.11 && python3 -m venv ~/band-venv && ~/band-venv/bin/pip install .
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

# A job's shell is not a login shell: where `module` is not known yet, the site's own script makes it known.
for script in /etc/profile.d/lmod.sh /etc/profile.d/z00_lmod.sh /etc/profile.d/modules.sh; do
    if ! type module >/dev/null 2>&1 && [ -r "$script" ]; then source "$script"; fi
done
# `module avail` lists what there is; the environment must have been made with the very same Python.
module load python/3.11 || exit 72
source "$HOME/band-venv/bin/activate" || exit 72
