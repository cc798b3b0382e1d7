"""Flags of Isaac Lab's and rsl_rl's own commands that ours have not, and what does the same here."""

VIEW = "--visualizer viser (train.py, play.py) shows it live in a browser"
SETTINGS = "agent.key=value and env.key=value"
INSTEAD = {
    "--headless": "leave it out: nothing is drawn unless --visualizer or --video asks for it",
    "--livestream": VIEW,
    "--viz": VIEW,
    "--visualizer": VIEW,
    "--enable_cameras": "leave it out: --video films without it",
    "--video": "play.py --video films a trained policy",
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
    "--run_name": "train.py --run_name; a trained run is named by --checkpoint RUN_FOLDER",
    "--max_iterations": "train.py --max_iterations",
    "--export_method": "export.py --to NAMES",
    "--export_save_path": "export.py --out FOLDER",
    "--disable_fabric": "leave it out: there is no Fabric without Kit",
    "--list_tasks": "isaaclab list_envs --all",
}
"""Flag -> what is asked for here in its place."""
