"""The configuration files of a lab's Slurm, as text."""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path

from slurm_lab.init import LOGIN_HOST, MEMORY_CGROUPS

GPUS_PER_NODE = 2
Settings = Mapping[str, str | int]
# Memory limits act through cgroups: the kernel kills one process that takes too much, not the whole step.
CGROUP_KILLS: Settings = {"TaskPlugin": "task/cgroup", "JobAcctGatherParams": "NoOverMemoryKill"}
# A dead or frozen node is noticed within some 15 s, not 30; a machine that is very busy may then seem dead.
QUICK_FAILURE: Settings = {"SlurmdTimeout": 5, "MessageTimeout": 4}
# A site that refuses whatever names a wckey.
NO_WCKEYS: Settings = {"JobSubmitPlugins": "lua"}
JOB_SUBMIT_LUA = """
function slurm_job_submit(job, partitions, uid)
    if job.wckey ~= nil and job.wckey ~= "" then
        slurm.log_user("wckeys are not used at this site, got " .. job.wckey)
        return slurm.ERROR
    end
    return slurm.SUCCESS
end
function slurm_job_modify(job, old, partitions, uid)
    return slurm.SUCCESS
end
"""
CGROUP_CONF = "CgroupPlugin=cgroup/v1\nConstrainRAMSpace=yes\nConstrainCores=no\nConstrainDevices=no\n"


@dataclass(frozen=True, kw_only=True)
class Plan:
    """What a lab consists of, and where."""

    root: Path
    node_names: tuple[str, ...]
    cpus: int
    memory_mb: int
    accounting: bool
    first_port: int  # claimed by the lab itself; the daemons use those after it

    @property
    def home(self) -> Path:
        """Folder that the login host and all nodes share."""
        return self.root / "home"

    @property
    def dbd_port(self) -> int:
        """Port of slurmdbd."""
        return self.first_port + 2

    @property
    def munge_socket(self) -> Path:
        """Socket of this lab's own munged."""
        return self.root / "run/munge"

    @property
    def database_socket(self) -> Path:
        """Socket of this lab's own mariadbd."""
        return self.root / "run/mysql"

    @property
    def cgroup(self) -> Path:
        """This lab's own memory cgroup, where the machine has such."""
        return MEMORY_CGROUPS / f"slurm-lab-{self.first_port}"

    def spool(self, node: str) -> Path:
        """Folder in which a node's slurmd lays out a job that it starts."""
        return self.root / "nodes" / node / "spool"

    def scratch(self, node: str) -> Path:
        """Folder that a node sees as /disk/scratch."""
        return self.root / "nodes" / node / "scratch"


def base_settings(plan: Plan) -> dict[str, str | int]:
    """Return the lines of slurm.conf that a test may override, by their names in `man slurm.conf`."""
    return {
        "ClusterName": "lab",
        "SlurmctldHost": f"{LOGIN_HOST}(127.0.0.1)",
        "SlurmctldPort": plan.first_port + 1,
        "AuthType": "auth/munge",
        "AuthInfo": f"cred_expire=5,socket={plan.munge_socket}",
        "SlurmUser": "root",
        "SlurmdUser": "root",
        "StateSaveLocation": f"{plan.root}/state",
        "SlurmdSpoolDir": f"{plan.root}/nodes/%n/spool",
        "SlurmctldPidFile": f"{plan.root}/run/slurmctld.pid",
        "SlurmdPidFile": f"{plan.root}/run/slurmd.%n.pid",
        "SlurmctldLogFile": f"{plan.root}/log/slurmctld",
        "SlurmdLogFile": f"{plan.root}/log/slurmd.%n",
        "SlurmdParameters": "config_overrides",
        "ProctrackType": "proctrack/linuxproc",
        "TaskPlugin": "task/none",
        "MpiDefault": "none",
        "SwitchType": "switch/none",
        "SelectType": "select/cons_tres",
        "SelectTypeParameters": "CR_Core_Memory",
        "DefMemPerCPU": 1000,
        "GresTypes": "gpu",
        "ReturnToService": 2,
        "JobRequeue": 1,
        "JobAcctGatherType": "jobacct_gather/linux",
        "JobAcctGatherFrequency": "task=1",
        "JobAcctGatherParams": "OverMemoryKill",
        "PreemptType": "preempt/partition_prio",
        "PreemptMode": "REQUEUE",
        "SchedulerParameters": "bf_interval=2,sched_interval=2,batch_sched_delay=0",
        "SlurmctldTimeout": 10,
        "SlurmdTimeout": 15,
        "KillWait": 5,
        "MinJobAge": 300,
        "MaxArraySize": 1001,
        "MaxJobCount": 10000,
        **(accounting_settings(plan) if plan.accounting else {}),
    }


def accounting_settings(plan: Plan) -> dict[str, str | int]:
    """Return the lines that make slurmctld keep and enforce what slurmdbd knows."""
    return {
        "AccountingStorageType": "accounting_storage/slurmdbd",
        "AccountingStorageHost": "127.0.0.1",
        "AccountingStoragePort": plan.dbd_port,
        "AccountingStoragePass": str(plan.munge_socket),
        "AccountingStorageEnforce": "associations,limits,qos",
        "AccountingStorageTRES": "gres/gpu",
    }


def slurm_conf(plan: Plan, *, settings: Settings) -> str:
    """Return slurm.conf; `settings` come over the base."""
    lines = [f"{name}={value}" for name, value in {**base_settings(plan), **settings}.items()]
    for number, name in enumerate(plan.node_names, start=1):
        lines.append(
            f"NodeName={name} NodeHostname={name} NodeAddr=127.0.0.1 Port={plan.dbd_port + number} CPUs={plan.cpus} "
            f"RealMemory={plan.memory_mb} Gres=gpu:{GPUS_PER_NODE} State=UNKNOWN"
        )
    everywhere = f"Nodes={','.join(plan.node_names)} State=UP DefaultTime=60 MaxTime=1-00:00:00"
    requeues = "PriorityTier=1 PreemptMode=REQUEUE"
    lines += [
        f"PartitionName=normal {everywhere} Default=YES PriorityTier=1 PreemptMode=OFF",
        f"PartitionName=preemptible {everywhere} {requeues} GraceTime=0",
        f"PartitionName=graceful {everywhere} {requeues} GraceTime=10",
        f"PartitionName=urgent {everywhere} PriorityTier=100 PreemptMode=OFF",
    ]
    return "\n".join(lines) + "\n"


def gres_conf(plan: Plan) -> str:
    """Return gres.conf: GPUs that are only device files."""
    names = ",".join(plan.node_names)
    return f"NodeName={names} Name=gpu File={plan.root}/gpu/nvidia[0-{GPUS_PER_NODE - 1}]\n"


def slurmdbd_conf(plan: Plan) -> str:
    """Return slurmdbd.conf; the database is found through MYSQL_UNIX_PORT."""
    lines = {
        "AuthType": "auth/munge",
        "AuthInfo": f"socket={plan.munge_socket}",
        "DbdHost": LOGIN_HOST,
        "DbdAddr": "127.0.0.1",
        "DbdPort": plan.dbd_port,
        "SlurmUser": "root",
        "LogFile": f"{plan.root}/log/slurmdbd",
        "PidFile": f"{plan.root}/run/slurmdbd.pid",
        "StorageType": "accounting_storage/mysql",
        "StorageHost": "localhost",
        "StorageUser": "root",
        "TrackWCKey": "yes",
    }
    return "".join(f"{name}={value}\n" for name, value in lines.items())


def hosts(plan: Plan) -> str:
    """Return /etc/hosts as the hosts of the lab see it."""
    return f"127.0.0.1 localhost {LOGIN_HOST} {' '.join(plan.node_names)}\n"
