"""The keys of lfads-torch's and BAND-torch's configurations that are plain values: which of ours each one is."""

from __future__ import annotations

_ARCH = (
    "ic_enc_seq_len", "ic_enc_dim", "ci_enc_dim", "ci_lag", "con_dim", "co_dim", "ic_dim", "gen_dim", "fac_dim",
    "causal_con", "cell_clip", "ic_post_var_min",
)  # fmt: skip
_HYPER = (
    "behavior_weight", "lr_stop", "lr_decay", "lr_patience", "weight_decay", "dropout_rate",
    "kl_ic_scale", "kl_co_scale", "kl_ic_target", "kl_co_target", "kl_start_epoch", "kl_increase_epoch",
    "l2_ic_enc_scale", "l2_ci_enc_scale", "l2_gen_scale", "l2_con_scale", "l2_start_epoch", "l2_increase_epoch",
)  # fmt: skip
SAME = {
    **{f"model.{name}": f"arch.{name}" for name in _ARCH},
    **{f"model.{name}": f"hyper.{name}" for name in _HYPER},
    "model.lr_init": "hyper.lr",
    "model.lr_adam_beta1": "hyper.adam_beta1",
    "model.lr_adam_beta2": "hyper.adam_beta2",
    "model.lr_adam_epsilon": "hyper.adam_epsilon",
    "model.loss_scale": "train.loss_scale",
    "model.recon_reduce_mean": "train.recon_reduce_mean",
    "datamodule.batch_size": "train.batch_size",
    "datamodule.bin_width": "data.bin_ms",
    "trainer.max_epochs": "train.max_epochs",
    "trainer.gradient_clip_val": "hyper.grad_clip",
    "callbacks.early_stopping.patience": "train.stop_patience",
    "posterior_sampling.fn.num_samples": "train.posterior_samples",
    "seed": "seed",
}
FROM_DATA = (
    "model.encod_data_dim", "model.recon_data_dim", "model.encod_seq_len", "model.recon_seq_len", "model.ext_input_dim",
)  # fmt: skip
NOTES = {  # what a value that is kept means here
    "model.kl_ic_target": "there |KL - target| is penalised: train.kl_target=absolute; by default KL below is free",
    "model.kl_co_target": "there |KL - target| is penalised: train.kl_target=absolute; by default KL below is free",
    "model.lr_stop": "there the rate stays at it; here training stops where the rate would fall below",
    "model.behavior_weight": "0 is LFADS",
}
WITHOUT_NEED = {  # dropped, and why
    "model._target_": "the model is named by its sizes and options",
    "model.infer_aug_stack": "nothing is augmented in inference",
    "datamodule._target_": "every file of that layout is read the same way",
    "datamodule.batch_keys": "every array of the file is carried along",
    "datamodule.attr_keys": "every array of the file is carried along",
    "datamodule.num_workers": "recordings are held in memory",
    "datamodule.sv_seed": "it has no effect without sample validation",
    "datamodule.dm_sv_seed": "it has no effect without sample validation",
    "datamodule.dm_ic_enc_seq_len": "it is model.ic_enc_seq_len",
    "trainer": "belongs to Lightning",
    "callbacks": "figures come from band-sweep report",
    "logger": "metrics.csv has a line for each epoch",
    "posterior_sampling": "a finished run has its posterior means in outputs.h5",
    "ignore_warnings": "belongs to the console of that package",
    "hydra": "belongs to Hydra",
    "defaults": "the files it names were read",
}
MONITORS = {
    "valid/recon_smth": "valid_recon",
    "valid/recon": "valid_recon",
    "valid/loss": "valid_loss",
    "valid/bps": "valid_bits_per_spike",
    "valid/beh_recon": "valid_behavior",
    "valid/beh_r2": "valid_behavior_r2",
    "valid/pbt_target": "valid_band",
}
