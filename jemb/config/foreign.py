"""Names that other trainers have for options, so that whoever comes from there is told ours.

They are those of sentence-transformers, transformers' TrainingArguments, Lightning's Trainer, FlagEmbedding, mteb and
text-dedup.
"""

from __future__ import annotations

from collections.abc import Collection

ALL = "it counts the samples of a step over all processes"
PIECES = "a large global_batch_size is encoded in pieces of so many texts, and keeps all its negatives"
NAMES: list[tuple[str, dict[str, str]]] = [
    ("epochs num_epochs num_train_epochs n_epochs", {"max_epochs": ""}),
    ("steps num_steps train_steps max_train_steps total_steps num_training_steps", {"max_steps": ""}),
    ("lr peak_lr max_lr", {"learning_rate": ""}),
    ("batch_size train_batch_size per_device_train_batch_size per_gpu_train_batch_size batch_size_per_device "
     "train_micro_batch_size_per_gpu", {"global_batch_size": ALL}),
    ("gradient_accumulation_steps accumulate_grad_batches grad_accum accumulation_steps gradient_checkpointing "
     "mini_batch_size cache_chunk_size chunk_size sub_batch_size", {"micro_batch_size": PIECES}),
    ("mini_batch_num_tokens", {"micro_batch_tokens": ""}),
    ("loss loss_fn loss_function loss_type criterion", {"objective": ""}),
    ("scale similarity_scale", {"temperature": "1 / scale"}),
    ("tau", {"temperature": ""}),
    ("bf16 fp16 tf32 mixed_precision amp dtype torch_dtype half", {"precision": "as in precision=bf16"}),
    ("report_to logger loggers logging tracker wandb mlflow tensorboard", {"trackers": ""}),
    ("eval_steps val_check_interval evaluation_steps eval_every", {"evaluation.every": "in steps"}),
    ("eval_strategy evaluation_strategy eval_dataset evaluator evaluators eval_tasks val_data do_eval "
     "load_best_model_at_end", {"evaluation.tasks": "the best step's weights become the model"}),
    ("metric_for_best_model monitor", {"evaluation.metric": ""}),
    ("early_stopping_patience early_stopping", {"evaluation.patience": ""}),
    ("save_steps save_strategy save_every save_interval checkpointing_steps every_n_train_steps",
     {"checkpoint_every": "in steps"}),
    ("save_total_limit save_top_k", {"keep_checkpoints": ""}),
    ("model_name_or_path model_name base_model pretrained pretrained_model_name_or_path model_id model_path checkpoint",
     {"init": "a name of the Hugging Face Hub or a folder", "model": "", "run": ""}),
    ("output_dir output_path output_folder out_dir save_dir save_path default_root_dir run_name log_dir logging_dir "
     "output_file output_json", {"output": ""}),
    ("dataset datasets dataset_name train_dataset train_data train_file train_path data data_path data_dir data_files",
     {"shards": "what `jemb prepare` makes of raw pairs", "input": "", "tasks": ""}),
    ("input_dir input_path input_file source", {"input": "", "shards": "what `jemb prepare` makes of raw pairs"}),
    ("warmup warmup_ratio num_warmup_steps", {"warmup_steps": "null is a tenth of all steps"}),
    ("lr_scheduler lr_scheduler_type scheduler scheduler_type", {"schedule": ""}),
    ("max_grad_norm gradient_clip_val clip_grad_norm grad_clip", {"gradient_clip": ""}),
    ("max_seq_length max_seq_len query_max_len passage_max_len model_max_length sequence_length", {"max_length": ""}),
    ("dataloader_num_workers num_workers num_proc n_jobs", {"workers": ""}),
    ("resume_from_checkpoint ckpt_path resume resume_from",
     {"output": "the same command on the same folder goes on where the run stopped"}),
    ("deepspeed zero_stage fsdp ddp", {"strategy": "as in strategy=deepspeed_2"}),
    ("devices num_gpus gpus n_gpu nproc_per_node num_processes num_nodes accelerator no_cuda use_cpu",
     {"device": "for several processes, start `torchrun --nproc-per-node N -m jemb.app.COMMAND`"}),
    ("pooling pooling_mode pooling_method", {"model.pooling": ""}),
    ("matryoshka_dims matryoshka", {"matryoshka_widths": "", "widths": ""}),
    ("num_hard_negatives n_negatives num_negs train_group_size", {"num_negatives": "", "mine.num_negatives": ""}),
    ("false_negative_margin", {"mask_margin": ""}),
    ("random_seed data_seed", {"seed": ""}),
    ("query_prompt query_instruction query_instruction_for_retrieval", {"prompts.query": ""}),
    ("passage_prompt document_prompt passage_instruction_for_retrieval", {"prompts.document": ""}),
    ("task task_names benchmark benchmarks eval_data", {"tasks": ""}),
    ("language languages lang langs", {"language.allowed": ""}),
    ("filters filter pipeline", {"stages": ""}),
    ("dedup deduplicate minhash", {"stages": "as in stages=[exact,near_duplicates]"}),
    ("similarity_threshold jaccard_threshold", {"near_duplicates.threshold": ""}),
    ("num_hashes n_hashes num_perm", {"near_duplicates.num_perm": ""}),
    ("columns column_names text_column query_column anchor anchor_column", {"fields.query": ""}),
    ("positive_column", {"fields.positive": ""}),
    ("negative_column", {"fields.negative": ""}),
    ("hub_model_id repo_id repo_name", {"push_to_hub": ""}),
    ("hub_private_repo", {"private": ""}),
]  # fmt: skip
"""Theirs, by spaces -> ours, with what is different. Of several the first that the command has is meant."""


def translate(given: str, options: Collection[str]) -> str:
    """`: here that is OPTION` for a name from elsewhere, else an empty string."""
    plain = given.replace("-", "_").lower()
    for theirs, ours in NAMES:
        if plain in theirs.split():
            for option, note in ours.items():
                if option in options:
                    return f": here that is {option}" + (f" ({note})" if note else "")
    return ""
