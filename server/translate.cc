#include "server/translate.h"

#include <algorithm>
#include <cmath>
#include <random>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"
#include "server/limits.h"
#include "server/prompt.h"

namespace kascade::server {
namespace {

// Reads optional fields into their places, keeping the first error.
class FieldReader {
 public:
  void real(const char* field, bool set, double value, double low, double high, double& out) {
    if (!set) return;
    keep(check_range(field, value, low, high));
    out = value;
  }
  void positive(const char* field, bool set, double value, double high, double& out) {
    if (!set) return;
    keep(check_positive(field, value, high));
    out = value;
  }
  void integer(const char* field, bool set, int64_t value, int64_t low, int64_t high,
               int32_t& out) {
    if (!set) return;
    keep(check_range(field, value, low, high));
    out = static_cast<int32_t>(value);
  }
  void keep(absl::Status status) {
    if (status_.ok()) status_ = std::move(status);
  }
  const absl::Status& status() const { return status_; }

 private:
  absl::Status status_;
};

uint64_t random_seed() {
  std::random_device device;
  return (uint64_t{device()} << 32) | device();
}

absl::Status read_logit_bias(const v1::SamplingParameters& in, int32_t vocab, Sampling& out) {
  if (in.logit_bias_size() > kMaxLogitBiases) {
    return invalid_field(
        "sampling.logit_bias",
        absl::StrCat("at most ", kMaxLogitBiases, " entries, got ", in.logit_bias_size()));
  }
  std::vector<Token> seen;
  for (int i = 0; i < in.logit_bias_size(); ++i) {
    const auto& entry = in.logit_bias(i);
    const std::string field = absl::StrCat("sampling.logit_bias[", i, "]");
    if (entry.token_id() < 0 || entry.token_id() >= vocab) {
      return invalid_field(field + ".token_id",
                           absl::StrCat("must be in [0, ", vocab, "), got ", entry.token_id()),
                           reason::kUnknownToken);
    }
    if (absl::Status status = check_range(field + ".bias", double{entry.bias()}, -100.0, 100.0);
        !status.ok()) {
      return status;
    }
    if (std::find(seen.begin(), seen.end(), entry.token_id()) != seen.end()) {
      return invalid_field(field + ".token_id", absl::StrCat(entry.token_id(), " comes twice"));
    }
    seen.push_back(entry.token_id());
    out.logit_bias.emplace_back(entry.token_id(), entry.bias());
  }
  return absl::OkStatus();
}

absl::StatusOr<Sampling> read_sampling(const v1::SamplingParameters& in, int32_t vocab) {
  Sampling out;
  FieldReader reader;
  constexpr double kLargest = 1e6;
  reader.real("sampling.temperature", in.has_temperature(), in.temperature(), 0, kLargest,
              out.temperature);
  reader.integer("sampling.top_k", in.has_top_k(), in.top_k(), 0, INT32_MAX, out.top_k);
  reader.positive("sampling.top_p", in.has_top_p(), in.top_p(), 1, out.top_p);
  reader.real("sampling.min_p", in.has_min_p(), in.min_p(), 0, 1, out.min_p);
  reader.positive("sampling.repetition_penalty", in.has_repetition_penalty(),
                  in.repetition_penalty(), kLargest, out.repetition_penalty);
  reader.real("sampling.presence_penalty", in.has_presence_penalty(), in.presence_penalty(), -2, 2,
              out.presence_penalty);
  reader.real("sampling.frequency_penalty", in.has_frequency_penalty(), in.frequency_penalty(), -2,
              2, out.frequency_penalty);
  reader.keep(read_logit_bias(in, vocab, out));
  if (!reader.status().ok()) return reader.status();
  out.seed = in.has_seed() ? in.seed() : random_seed();
  return out;
}

absl::Status read_stops(const v1::StoppingCriteria& in, const ModelConfig& model,
                        GeneratePlan& plan, Generate& generate) {
  if (in.stop_strings_size() > kMaxStopStrings) {
    return invalid_field("stopping.stop_strings", absl::StrCat("at most ", kMaxStopStrings,
                                                               ", got ", in.stop_strings_size()));
  }
  for (int i = 0; i < in.stop_strings_size(); ++i) {
    const size_t size = in.stop_strings(i).size();
    if (size >= 1 && size <= kMaxStopStringBytes) continue;
    return invalid_field(
        absl::StrCat("stopping.stop_strings[", i, "]"),
        absl::StrCat("must have 1 to ", kMaxStopStringBytes, " bytes, has ", size));
  }
  plan.stop_strings.assign(in.stop_strings().begin(), in.stop_strings().end());
  plan.include_stop_string = in.include_stop_string();
  if (in.stop_token_ids_size() > kMaxStopTokens) {
    return invalid_field(
        "stopping.stop_token_ids",
        absl::StrCat("at most ", kMaxStopTokens, ", got ", in.stop_token_ids_size()));
  }
  absl::Status status = check_ids(in.stop_token_ids(), model.vocab, "stopping.stop_token_ids");
  if (!status.ok()) return status;
  generate.stop_tokens.assign(in.stop_token_ids().begin(), in.stop_token_ids().end());
  if (!in.ignore_eos()) plan.end_tokens = model.eos_tokens;
  return absl::OkStatus();
}

absl::Status read_lengths(const v1::StoppingCriteria& in, int32_t context, Generate& out) {
  FieldReader reader;
  out.max_new_tokens = std::min(kDefaultMaxNewTokens, context);
  reader.integer("stopping.max_new_tokens", in.has_max_new_tokens(), in.max_new_tokens(), 1,
                 context, out.max_new_tokens);
  reader.integer("stopping.min_new_tokens", in.has_min_new_tokens(), in.min_new_tokens(), 0,
                 out.max_new_tokens, out.min_new_tokens);
  return reader.status();
}

absl::Status read_response(const v1::ResponseOptions& in, GeneratePlan& plan, Generate& generate) {
  FieldReader reader;
  reader.integer("response.top_logprobs", in.has_top_logprobs(), in.top_logprobs(), 0,
                 kMaxTopLogprobs, generate.top_logprobs);
  plan.send_logprobs = in.logprobs() || generate.top_logprobs > 0;
  plan.send_token_ids = in.token_ids() || plan.send_logprobs;
  plan.send_prompt_ids = in.prompt_token_ids();
  plan.skip_special_tokens = !in.has_skip_special_tokens() || in.skip_special_tokens();
  generate.want_logprobs = plan.send_logprobs;
  return reader.status();
}

// Text or token ids.
absl::Status read_plain_prompt(const v1::GenerateRequest& in, const Engine& engine,
                               GeneratePlan& plan) {
  PromptOptions options{.parse_special_tokens = in.parse_special_tokens()};
  if (in.has_add_bos()) options.add_bos = in.add_bos();
  const auto encoder = PromptEncoder::create(engine, options);
  if (!encoder.ok()) return encoder.status();
  auto tokens =
      in.has_text() ? encoder->text(in.text(), "text") : encoder->ids(in.token_ids(), "token_ids");
  if (!tokens.ok()) return tokens.status();
  plan.continues_text = tokens->size() > encoder->bos_count(*tokens);
  plan.request.tokens = *std::move(tokens);
  return absl::OkStatus();
}

// The answer is a text of its own; the format's end token joins the model's.
absl::Status read_chat(const v1::GenerateRequest& in, const Engine& engine, GeneratePlan& plan) {
  for (const auto& [set, field] :
       {std::pair{in.has_add_bos(), "add_bos"},
        std::pair{in.has_parse_special_tokens(), "parse_special_tokens"}}) {
    if (set) return invalid_field(field, "has no meaning with chat");
  }
  auto prompt = encode_chat(in.chat(), engine);
  if (!prompt.ok()) return prompt.status();
  plan.request.tokens = std::move(prompt->tokens);
  if (in.stopping().ignore_eos()) return absl::OkStatus();
  plan.end_tokens.insert(plan.end_tokens.end(), prompt->end_tokens.begin(),
                         prompt->end_tokens.end());
  return absl::OkStatus();
}

absl::Status read_prompt(const v1::GenerateRequest& in, const Engine& engine, GeneratePlan& plan) {
  const char* field = in.has_text() ? "text" : in.has_chat() ? "chat" : "token_ids";
  if (in.prompt_case() == v1::GenerateRequest::PROMPT_NOT_SET) {
    return invalid_field("prompt", "text, token_ids or chat must be set");
  }
  const absl::Status status =
      in.has_chat() ? read_chat(in, engine, plan) : read_plain_prompt(in, engine, plan);
  if (!status.ok()) return status;
  const int64_t limit = engine.model().context - 1;
  const auto size = static_cast<int64_t>(plan.request.tokens.size());
  if (size == 0) return invalid_field(field, "the prompt has no token, not even a BOS");
  if (size > limit) {
    return invalid_field(field,
                         absl::StrCat("the prompt has ", size, " tokens; at most ", limit,
                                      " leave room for a new one in the model's context"),
                         reason::kTooLong);
  }
  return absl::OkStatus();
}

}  // namespace

absl::Status check_range(const std::string& field, double value, double low, double high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return invalid_field(field, absl::StrCat("must be in [", low, ", ", high, "], got ", value));
}

absl::Status check_positive(const std::string& field, double value, double high) {
  if (value > 0 && value <= high) return absl::OkStatus();
  return invalid_field(field, absl::StrCat("must be in (0, ", high, "], got ", value));
}

absl::Status check_range(const std::string& field, int64_t value, int64_t low, int64_t high) {
  if (value >= low && value <= high) return absl::OkStatus();
  return invalid_field(field, absl::StrCat("must be in [", low, ", ", high, "], got ", value));
}

absl::StatusOr<GeneratePlan> plan_generate(const v1::GenerateRequest& in, const Engine& engine,
                                           absl::Time deadline) {
  GeneratePlan plan;
  Generate generate;
  const ModelConfig& model = engine.model();
  plan.schedule = engine.active_schedule();
  auto attention = translate_attention(in.attention(), model, plan.schedule.get(),
                                       /*may_compare=*/false);
  if (!attention.ok()) return attention.status();
  plan.attention = *attention;
  if (!plan.attention.uses_schedule()) plan.schedule = nullptr;
  if (plan.attention.mode != Mode::kDense) {
    plan.request.attention = plan.attention.sparse(plan.schedule);
  }
  auto sampling = read_sampling(in.sampling(), model.vocab);
  if (!sampling.ok()) return sampling.status();
  generate.sampling = *std::move(sampling);
  for (const absl::Status& status :
       {read_stops(in.stopping(), model, plan, generate),
        read_lengths(in.stopping(), model.context, generate),
        read_response(in.response(), plan, generate), read_prompt(in, engine, plan)}) {
    if (!status.ok()) return status;
  }
  generate.stop_tokens.insert(generate.stop_tokens.end(), plan.end_tokens.begin(),
                              plan.end_tokens.end());
  plan.request.task = std::move(generate);
  plan.request.deadline = deadline;
  return plan;
}

void to_proto(const std::vector<Candidate>& candidates, v1::TopCandidates& out) {
  for (const Candidate& candidate : candidates) {
    out.add_token_ids(candidate.token);
    out.add_logprobs(candidate.logprob);
  }
}

}  // namespace kascade::server
