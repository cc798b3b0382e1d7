"""The one list of what makes the host wait for a CUDA device, and why it may. Whatever else waits raises in
`tests/hosts/test_pretend_cuda_*.py`.
"""

OURS = {
    "spiky_rl.learners.common.episodes:EpisodeStatistics.fetch": "returns and lengths, once per iteration",
    "spiky_rl.hosts.environment:Stopwatch.seconds": "the time of the simulation, once per iteration",
    "spiky_rl.hosts.environment:TimedEnvironment.step": "whether all that the simulation gives is finite: the one wait in a"
    " control step, where Isaac Lab's own resets wait too",
    "spiky_rl.hosts.isaaclab.environment:IsaacLabVecEnv.worlds_reset": "how many worlds broke, once per iteration",
    "spiky_rl.learners.common.activity:compute_activity": "a network's cost, once per iteration",
    "spiky_rl.learners.common.runner:BaseRunner._find_non_finite": "whether all weights are finite, once per iteration",
    "spiky_rl.learners.common.runner:BaseRunner.meter": "whether other weights are zero, once per iteration",
    "spiky_rl.learners.skrl.base_runner:SkrlEpisodeStatistics.fetch_reports": "what the environment reports, once per iteration",
    "spiky_rl.learners.skrl.base_runner:SkrlBaseRunner._write_iteration": "the deviation of actions, once per iteration",
    "spiky_rl.learners.skrl.models:SpikingPolicy.mean_entropy": "the entropy, once per iteration",
    "spiky_rl.metrics.ann:OperationCounter.add_layer": "an ANN's cost, once per iteration",
    "spiky_rl.metrics.ann:OperationCounter.add_activations": "an ANN's cost, once per iteration",
    "spiky_rl.metrics.ann:_make_linear_hook.<locals>.hook": "an ANN's cost, once per iteration",
    "spiky_rl.metrics.ann:_get_storage": "how many weights are zero, once per iteration",
    "spiky_rl.metrics.ann:_make_recurrent_hook.<locals>.<genexpr>": "an ANN's cost, once per iteration",
    "spiky_rl.metrics.ann:_make_recurrent_hook.<locals>.hook": "an ANN's cost, once per iteration",
    "spiky_rl.metrics.meter:CostMeter.__call__": "a network's cost, once per iteration",
    "spiky_rl.metrics.meter:measure_ann.<locals>.<genexpr>": "an ANN's cost, once per iteration",
    "spiky_rl.metrics.spikes:_measure": "firing of every layer, once per iteration",
    "spiky_rl.metrics.spikes:draw_raster": "the raster, every 25 iterations",
    "spiky_rl.connections._cost:count_zeros": "how many weights are zero, where a meter is made",
    "spiky_rl.connections.base:IntraLayerConnection.measure_cost": "how many weights are zero, where a meter is made",
    "spiky_rl.connections.convolutional:Convolutional.measure_cost": "how many weights are zero, where a meter is made",
    "spiky_rl.metrics.synops:count_operations": "a network's cost, once per iteration",
    "spiky_rl.networks.base:SpikingNetwork.get_extra_state": "a checkpoint: the number of updates",
    "spiky_rl.codecs.encoders.base:resample_noise": "the noise of the next rollout, one row, once per update",
    "spiky_rl.classification.training:iterate_batches.<locals>.move": "samples lie with the host",
    "spiky_rl.classification.training:augment": "how each sample is moved, which the host draws",
    "spiky_rl.classification.training:Trainer.measure_activity": "a network's operations, once per epoch",
    "spiky_rl.classification.training:Trainer._learn": "loss and accuracy, once per epoch",
    "spiky_rl.classification.training:Trainer._find_non_finite": "whether all weights are finite, once per epoch",
    "spiky_rl.classification.training:compute_probabilities": "classes of the validation set, once per epoch",
}
"""Function -> why it waits. None of them does in a control step or a minibatch: see `BUSY`."""
BUSY = (
    "rsl_rl.algorithms.ppo:PPO.act",
    "rsl_rl.algorithms.ppo:PPO.process_env_step",
    "rsl_rl.algorithms.ppo:PPO.compute_returns",
    "rsl_rl.algorithms.ppo:PPO.update",
    "skrl.agents.torch.ppo.ppo:PPO.act",
    "skrl.agents.torch.ppo.ppo:PPO.record_transition",
    "skrl.agents.torch.ppo.ppo:PPO.update",
    "skrl.agents.torch.ppo.ppo_rnn:PPO_RNN.act",
    "skrl.agents.torch.ppo.ppo_rnn:PPO_RNN.record_transition",
    "skrl.agents.torch.ppo.ppo_rnn:PPO_RNN.update",
    "spiky_rl.learners.rsl_rl.runner:_QuietLogger.process_env_step",
    "spiky_rl.learners.skrl.base_runner:SkrlEpisodeStatistics.add_step",
    "spiky_rl.classification.training:training_step",
    "spiky_rl.networks.feedforward:FeedForward.apply_local_rules",
)
"""Functions of control steps and minibatches, in which nothing of `OURS` may wait, but for what `BETWEEN` does after the last."""
BETWEEN = "spiky_rl.networks.feedforward:FeedForward.count_update"
HOSTS = {
    "rsl_rl.algorithms.ppo:PPO.update": "losses and the KL divergence of every minibatch; the gradient of unpad_trajectories",
    "rsl_rl.storage.rollout_storage:RolloutStorage.recurrent_mini_batch_generator": "where episodes begin, of what is replayed",
    "rsl_rl.utils.utils:split_and_pad_trajectories": "where episodes end, of what is replayed",
    "rsl_rl.utils.utils:unpad_trajectories": "where episodes end, of what is replayed",
    "rsl_rl.modules.rnn:RNN.reset": "where an ANN's episodes end",
    "rsl_rl.modules.normalization:EmpiricalNormalization.update": "the number of samples, once per update",
    "rsl_rl.utils.logger:Logger.log": "the log, once per iteration",
    "skrl.agents.torch.ppo.ppo:PPO.update": "losses of every minibatch, the KL divergence of every epoch",
    "skrl.agents.torch.ppo.ppo_rnn:PPO_RNN.update": "losses of every minibatch, the KL divergence of every epoch",
    "skrl.agents.torch.ppo.ppo_rnn:PPO_RNN.record_transition": "where episodes end, of what is replayed",
    "skrl.memories.torch.base:Memory.sample_all": "which samples belong to a minibatch, once per update",
    "skrl.memories.torch.base:Memory.sample_by_index": "which samples belong to a minibatch, once per update",
}
"""The same of the libraries that train: theirs, whatever the network is. None of ours is called while they wait."""
TESTS = ("tests.hosts.pretend_case:Writer.add_scalar", "tests.hosts.pretend_case:Writer.add_histogram")
"""What stands for TensorBoard in the tests, and reads as it does."""
