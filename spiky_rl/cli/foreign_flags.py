"""Flags of Isaac Lab's and rsl_rl's commands that these commands lack, and their replacements."""

VIEW = "--visualizer viser (train.py, play.py) for a live view in a browser"
SETTINGS = "agent.key=value and env.key=value"
INSTEAD = {
    "--headless": "leave it out; nothing is rendered without --visualizer or --video",
    "--livestream": VIEW,
    "--viz": VIEW,
    "--visualizer": VIEW,
    "--enable_cameras": "leave it out; --video works without it",
    "--video": "play.py --video",
    "--resume": "--checkpoint latest",
    "--load_run": "--checkpoint RUN_FOLDER",
    "--load_checkpoint": "--checkpoint FILE",
    "--model_path": "--checkpoint FILE",
    "--use_last_checkpoint": "--checkpoint latest",
    "--use_pretrained_checkpoint": "--checkpoint FILE",
    "--algorithm": "--agent NAME, and agent.algorithm.key=value",
    "--config_name": SETTINGS,
    "--config_path": SETTINGS,
    "--log_interval": "agent.save_interval=N for checkpoints",
    "--logger": "train.py --logger",
    "--track": "train.py --logger wandb",
    "--wandb-project-name": "train.py --logger wandb --log_project_name NAME",
    "--run_name": "train.py --run_name, or --checkpoint RUN_FOLDER for a trained run",
    "--max_iterations": "train.py --max_iterations",
    "--export_method": "export.py --to NAMES",
    "--export_save_path": "export.py --out FOLDER",
    "--disable_fabric": "leave it out; there is no Fabric without Kit",
    "--list_tasks": "isaaclab list_envs --all",
}
"""Foreign flag -> replacement."""
