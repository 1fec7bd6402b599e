#include "tools/train/training_inputs.h"

#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/training/backend_products.h"

namespace kascade::train {
namespace {

absl::Status open_model(const TrainingRequest& request, TrainingInputs& inputs) {
  auto config = load_config(request.model);
  if (!config.ok()) return config.status();
  inputs.config = *std::move(config);
  auto checkpoint = open_checkpoint(request.model, inputs.config);
  if (!checkpoint.ok()) return checkpoint.status();
  inputs.checkpoint = *std::move(checkpoint);
  if (auto status = training::trainable(inputs.config, inputs.checkpoint); !status.ok()) {
    return status;
  }
  auto backend = open_backend(
      {.name = "cpu", .weights = WeightFormat::kF32, .cpu = {.count = request.threads}});
  if (!backend.ok()) return backend.status();
  inputs.backend = *std::move(backend);
  inputs.products = training::make_backend_products(*inputs.backend);
  return inputs.backend->attach_thread();
}

absl::Status open_adapter(const TrainingRequest& request, TrainingInputs& inputs) {
  inputs.adapter.shape = adapter_shape(inputs.config);
  inputs.adapter.options = request.options;
  inputs.adapter.weights_digest = inputs.checkpoint.weights_digest;
  if (request.start.empty()) return validate(request.options);
  auto start = load_adapter(request.start);
  if (!start.ok()) return start.status();
  if (start->weights_digest != inputs.adapter.weights_digest ||
      start->shape != inputs.adapter.shape) {
    return absl::FailedPreconditionError(absl::StrCat(
        request.start.string(), ": was trained on another model than ", request.model.string()));
  }
  inputs.adapter = *std::move(start);
  return absl::OkStatus();
}

absl::Status open_texts(const TrainingRequest& request, TrainingInputs& inputs) {
  auto tokenizer = open_tokenizer(request.model);
  if (!tokenizer.ok()) return tokenizer.status();
  for (const int32_t length : request.texts.lengths) {
    if (length <= inputs.config.context) continue;
    return absl::InvalidArgumentError(absl::StrCat("--max-length: must be at most the model's ",
                                                   inputs.config.context, " tokens, is ", length));
  }
  std::optional<int32_t> end;
  if (!inputs.config.eos_tokens.empty()) end = inputs.config.eos_tokens.front();
  std::optional<ChatFormat> format;
  if (const auto found = find_chat_format(request.model, **tokenizer); found.ok()) format = *found;
  auto texts =
      request.task
          ? choose_questions(request.files, *request.task, **tokenizer, format, end, request.texts)
          : choose_texts(request.files, **tokenizer, inputs.config.vocab, request.texts);
  if (!texts.ok()) return texts.status();
  inputs.texts = *std::move(texts);
  return absl::OkStatus();
}

}  // namespace

absl::Status open_inputs(const TrainingRequest& request, TrainingInputs& inputs) {
  for (auto* open : {open_model, open_adapter, open_texts}) {
    if (auto status = open(request, inputs); !status.ok()) return status;
  }
  inputs.student = std::make_unique<training::Student<float>>(
      inputs.config, inputs.checkpoint, inputs.adapter.options, *inputs.products);
  return absl::OkStatus();
}

}  // namespace kascade::train
