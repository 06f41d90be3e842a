"""The lab is what it says: nodes of their own, faults that happen, nothing left behind."""

from __future__ import annotations

from slurm_lab.lab import Lab


def test_each_node_has_a_name_a_scratch_disk_and_gpus_of_its_own(slurm_lab: Lab) -> None:
    wrap = "srun sh -c 'echo $CUDA_VISIBLE_DEVICES > /disk/scratch/$(hostname)'"
    job = slurm_lab.sbatch("--nodes=2", "--ntasks-per-node=1", "--gres=gpu:2", wrap=wrap)
    slurm_lab.wait_for(lambda: slurm_lab.job_states()[job] == "COMPLETED")
    for name, node in slurm_lab.nodes.items():
        assert [path.name for path in node.scratch.iterdir()] == [name]
        assert (node.scratch / name).read_text() == "0,1\n"
