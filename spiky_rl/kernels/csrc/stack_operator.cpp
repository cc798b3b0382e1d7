// A torch operator that runs a stack forward and backward without Python: at small batches Python takes longer than the kernels.
//
// It serves the most frequent case: a stack without recurrence that starts from the zero state, with parameters that all neurons of a
// layer share. For anything else it returns no tensors, and the caller runs the stack from Python.

struct Plan {
  const Layer *layers;             // without weights, biases and memory; the bias is null if there is none
  const long *signals, *currents;  // place of each layer's input and current in the memory, in bytes; -1 if it is not kept
  int (*forward)(const Stack *), (*backward)(const Stack *);
  void (*count_events)(const Word *, long *, long, long);
  long count, T, inner, K, B, width, memory;  // inner: K, or 1 if x is [T, 1, B, C]
  int counted, bfloat16, has_openmp;
};

namespace {

using at::Tensor;
using torch::autograd::AutogradContext;
using torch::autograd::variable_list;

const Plan &plan_of(const Tensor &plan) { return *static_cast<const Plan *>(plan.const_data_ptr()); }

float *floats(const Tensor &x) { return static_cast<float *>(x.mutable_data_ptr()); }

const float *constants(const Tensor &x) { return static_cast<const float *>(x.const_data_ptr()); }

bool can_read(const Tensor &x, long size) {
  return x.has_storage() && x.is_cpu() && x.scalar_type() == at::kFloat && x.is_contiguous() && x.numel() == size;
}

// Whether x, if it is defined, weights and biases are what the layers expect; the caller names what is wrong.
bool can_read_all(const Plan &plan, const Tensor &x, const std::optional<Tensor> &offset, at::TensorList weights) {
  size_t i = 0;
  for (long l = 0; l < plan.count; l++) {
    const Layer &layer = plan.layers[l];
    const long rows = layer.output_major ? layer.N : layer.C, columns = layer.output_major ? layer.C : layer.N;
    if (i >= weights.size() || !can_read(weights[i], rows * columns) || weights[i].dim() != 2 || weights[i].size(0) != rows) return false;
    i++;
    if (layer.bias && (i >= weights.size() || !can_read(weights[i], layer.N) || weights[i].dim() != 1)) return false;
    i += layer.bias != nullptr;
  }
  return i == weights.size() && (!x.defined() || can_read(x, plan.T * plan.inner * plan.B * plan.layers[0].C)) &&
         (!offset || (can_read(*offset, plan.width) && offset->dim() == 1));
}

// Returns the layers with weights, biases and the memory that a forward pass keeps.
std::vector<Layer> fill_layers(const Plan &plan, at::TensorList weights, const Tensor &memory) {
  std::vector<Layer> layers(plan.layers, plan.layers + plan.count);
  char *start = static_cast<char *>(memory.mutable_data_ptr());
  size_t i = 0;
  for (long l = 0; l < plan.count; l++) {
    Layer &layer = layers[l];
    layer.weight = constants(weights[i++]);
    if (layer.bias) layer.bias = constants(weights[i++]);
    if (plan.signals[l] >= 0 && layer.binary) layer.bits = reinterpret_cast<Word *>(start + plan.signals[l]);
    if (plan.signals[l] >= 0 && !layer.binary) layer.input = reinterpret_cast<float *>(start + plan.signals[l]);
    if (plan.currents[l] >= 0) layer.current = reinterpret_cast<float *>(start + plan.currents[l]);
  }
  return layers;
}

Stack make_stack(const Plan &plan, const std::vector<Layer> &layers) {
  Stack stack = {};
  stack.layers = layers.data(), stack.count = plan.count;
  stack.T = plan.T, stack.K = plan.K, stack.B = plan.B;
  stack.constant = plan.inner == 1, stack.bfloat16 = plan.bfloat16;
  stack.threads = plan.has_openmp ? at::get_num_threads() : 1;
  return stack;
}

struct RunStack : torch::autograd::Function<RunStack> {
  // Returns the output, then the rates of all layers but the last if they are counted.
  static variable_list forward(AutogradContext *ctx, const Tensor &plan_tensor, const Tensor &x, const std::optional<Tensor> &offset,
                               at::TensorList weights) {
    const Plan &plan = plan_of(plan_tensor);
    const Tensor memory = at::empty({plan.memory}, x.options().dtype(at::kByte));
    const Tensor output = offset ? at::empty({plan.T, plan.B, plan.width}, x.options())
                                 : at::empty({plan.T, plan.K, plan.B, plan.width}, x.options());
    const std::vector<Layer> layers = fill_layers(plan, weights, memory);
    Stack stack = make_stack(plan, layers);
    stack.x = constants(x);
    (offset ? stack.last_step : stack.output) = floats(output);
    stack.offset = offset ? constants(*offset) : nullptr;
    TORCH_CHECK(!plan.forward(&stack), "no memory to run ", plan.B, " samples");
    variable_list outputs{output};
    const long rows = plan.T * plan.K * plan.B;
    for (long l = 1; plan.counted && l < plan.count; l++) {
      std::vector<long> counts(layers[l].C);
      plan.count_events(layers[l].bits, counts.data(), rows, layers[l].C);
      outputs.push_back(at::empty({layers[l].C}, x.options()));
      float *rates = floats(outputs.back());
      for (long c = 0; c < layers[l].C; c++) rates[c] = double(counts[c]) / rows;
    }
    ctx->set_materialize_grads(false);
    ctx->saved_data["plan"] = plan_tensor, ctx->saved_data["offset"] = offset.has_value();
    variable_list saved{layers[0].binary ? Tensor() : x, memory, offset.value_or(Tensor())};
    saved.insert(saved.end(), weights.begin(), weights.end());
    ctx->save_for_backward(std::move(saved));
    return outputs;
  }

  // Returns the gradients of x, offset, weights and biases.
  static variable_list backward(AutogradContext *ctx, variable_list grads) {
    TORCH_CHECK(!at::GradMode::is_enabled(), NO_SECOND_DERIVATIVE);
    const Tensor plan_tensor = ctx->saved_data["plan"].toTensor();
    const bool has_offset = ctx->saved_data["offset"].toBool();
    const Plan &plan = plan_of(plan_tensor);
    const variable_list saved = ctx->get_saved_variables();
    const Tensor x = saved[0].defined() ? saved[0].contiguous() : saved[0], memory = saved[1];
    variable_list weights;
    for (size_t i = 3; i < saved.size(); i++) weights.push_back(saved[i].contiguous());
    // hooks of saved tensors, and `data` of a weight, may have changed what was saved
    TORCH_CHECK_VALUE(can_read_all(plan, x, std::nullopt, weights) && memory.is_cpu() && memory.scalar_type() == at::kByte &&
                          memory.is_contiguous() && memory.numel() == plan.memory,
                      "a signal, weight or bias has another type or shape than in the forward pass");
    const auto options = weights[0].options();
    std::vector<Layer> layers = fill_layers(plan, weights, memory);
    variable_list kept_alive, results(3 + weights.size());
    Tensor grad_output = grads[0];
    if (!grad_output.defined())
      grad_output = has_offset ? at::zeros({plan.T, plan.B, plan.width}, options) : at::zeros({plan.T, plan.K, plan.B, plan.width}, options);
    grad_output = grad_output.contiguous();
    for (size_t i = 0; i < weights.size(); i++) results[3 + i] = at::empty(weights[i].sizes(), options);
    size_t i = 3;
    for (long l = 0; l < plan.count; l++) {
      Layer &layer = layers[l];
      layer.grad_weight = floats(results[i++]);
      if (layer.bias) layer.grad_bias = floats(results[i++]);
      if (l > 0 && plan.counted && grads[l].defined()) {
        kept_alive.push_back(grads[l].div(plan.T * plan.K * plan.B).contiguous());
        layer.charge = constants(kept_alive.back());
      }
    }
    Stack stack = make_stack(plan, layers);
    stack.x = x.defined() ? constants(x) : nullptr;
    (has_offset ? stack.grad_last_step : stack.grad_output) = constants(grad_output);
    if (ctx->needs_input_grad(1)) {
      results[1] = at::empty({plan.T, plan.inner, plan.B, layers[0].C}, options);
      stack.grad_x = floats(results[1]);
    }
    TORCH_CHECK(!plan.backward(&stack), "no memory for the gradients of ", plan.B, " samples");
    if (has_offset) results[2] = grad_output.sum(at::IntArrayRef{0, 1});
    return results;
  }
};

variable_list run_stack(const Tensor &plan, const Tensor &x, const std::optional<Tensor> &offset, at::TensorList weights) {
  const Tensor signal = x.contiguous();
  const std::optional<Tensor> bias = offset ? std::optional(offset->contiguous()) : std::nullopt;
  if (!can_read_all(plan_of(plan), signal, bias, weights)) return {};
  return RunStack::apply(plan, signal, bias, weights);
}

}  // namespace

// Call it once per process: torch refuses a second registration.
extern "C" void spiky_register() {
  static torch::Library library(torch::Library::FRAGMENT, "spiky_rl", std::nullopt, __FILE__, __LINE__);
  library.def("run_stack(Tensor plan, Tensor x, Tensor? offset, Tensor[] weights) -> Tensor[]");
  library.impl("run_stack", c10::DispatchKey::CompositeImplicitAutograd, run_stack);
}
