#include "server/grpc/translate_generate.h"

#include <string>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/grpc/translate_attention.h"
#include "server/grpc/translate_priority.h"

namespace kascade::server {
namespace {

constexpr std::pair<v1::ChatFormat, ChatFormat> kChatFormats[] = {
    {v1::CHAT_FORMAT_LLAMA3, ChatFormat::kLlama3},
    {v1::CHAT_FORMAT_LLAMA2, ChatFormat::kLlama2},
    {v1::CHAT_FORMAT_LLAMA3_1, ChatFormat::kLlama3Dated},
    {v1::CHAT_FORMAT_CHATML, ChatFormat::kChatMl},
    {v1::CHAT_FORMAT_QWEN2, ChatFormat::kQwen2},
    {v1::CHAT_FORMAT_QWEN2_5, ChatFormat::kQwen25},
    {v1::CHAT_FORMAT_QWEN3, ChatFormat::kQwen3},
    {v1::CHAT_FORMAT_SMOLLM2, ChatFormat::kSmolLm2},
    {v1::CHAT_FORMAT_YI, ChatFormat::kYi},
    {v1::CHAT_FORMAT_ZEPHYR, ChatFormat::kZephyr},
    {v1::CHAT_FORMAT_PHI3, ChatFormat::kPhi3},
    {v1::CHAT_FORMAT_GRANITE, ChatFormat::kGranite},
    {v1::CHAT_FORMAT_MISTRAL_V0, ChatFormat::kMistralV0},
    {v1::CHAT_FORMAT_MISTRAL_V1, ChatFormat::kMistralV1},
    {v1::CHAT_FORMAT_MISTRAL_V3, ChatFormat::kMistralV3},
    {v1::CHAT_FORMAT_MISTRAL_TEKKEN, ChatFormat::kMistralTekken},
    {v1::CHAT_FORMAT_VICUNA, ChatFormat::kVicuna},
    {v1::CHAT_FORMAT_DEEPSEEK_LLM, ChatFormat::kDeepSeekLlm},
    {v1::CHAT_FORMAT_DEEPSEEK_V3, ChatFormat::kDeepSeekV3},
    {v1::CHAT_FORMAT_DEEPSEEK_R1, ChatFormat::kDeepSeekR1},
    {v1::CHAT_FORMAT_DEEPSEEK_R1_V0, ChatFormat::kDeepSeekR1V0},
};

absl::StatusOr<ChatRole> role_of(const v1::ChatMessage& message, size_t index) {
  switch (message.role()) {
    case v1::CHAT_ROLE_SYSTEM:
      return ChatRole::kSystem;
    case v1::CHAT_ROLE_USER:
      return ChatRole::kUser;
    case v1::CHAT_ROLE_ASSISTANT:
      return ChatRole::kAssistant;
    default:
      return invalid_field(
          absl::StrCat("chat.messages[", index, "].role"),
          absl::StrCat("must be SYSTEM, USER or ASSISTANT, got ", int{message.role()}));
  }
}

absl::StatusOr<core::Prompt> read_chat(const v1::ChatPrompt& in) {
  core::Conversation out;
  for (const v1::ChatMessage& message : in.messages()) {
    const auto role = role_of(message, out.messages.size());
    if (!role.ok()) return role.status();
    out.messages.push_back({*role, message.content()});
  }
  if (in.format() == v1::CHAT_FORMAT_UNSPECIFIED) return out;
  for (const auto& [wire, format] : kChatFormats) {
    if (in.format() == wire) out.format = format;
  }
  if (!out.format) {
    return invalid_field("chat.format", absl::StrCat("unknown value ", int{in.format()}));
  }
  return out;
}

absl::StatusOr<core::Prompt> read_prompt(const v1::GenerateRequest& in) {
  switch (in.prompt_case()) {
    case v1::GenerateRequest::kText:
      return core::TextPrompt{in.text()};
    case v1::GenerateRequest::kTokenIds:
      return core::TokenPrompt{span_of(in.token_ids().ids())};
    case v1::GenerateRequest::kChat:
      return read_chat(in.chat());
    case v1::GenerateRequest::PROMPT_NOT_SET:
      break;
  }
  return invalid_field("prompt", "text, token_ids or chat must be set");
}

Sampling read_sampling(const v1::SamplingParameters& in) {
  Sampling out;
  if (in.has_temperature()) out.temperature = in.temperature();
  if (in.has_top_k()) out.top_k = in.top_k();
  if (in.has_top_p()) out.top_p = in.top_p();
  if (in.has_min_p()) out.min_p = in.min_p();
  if (in.has_repetition_penalty()) out.repetition_penalty = in.repetition_penalty();
  if (in.has_presence_penalty()) out.presence_penalty = in.presence_penalty();
  if (in.has_frequency_penalty()) out.frequency_penalty = in.frequency_penalty();
  for (const v1::LogitBias& entry : in.logit_bias()) {
    out.logit_bias.emplace_back(entry.token_id(), entry.bias());
  }
  return out;
}

void read_stopping(const v1::StoppingCriteria& in, core::GenerationRequest& out) {
  if (in.has_max_new_tokens()) out.max_new_tokens = in.max_new_tokens();
  out.min_new_tokens = in.min_new_tokens();
  out.stop_strings.assign(in.stop_strings().begin(), in.stop_strings().end());
  out.stop_tokens.assign(in.stop_token_ids().begin(), in.stop_token_ids().end());
  out.ignore_eos = in.ignore_eos();
  out.include_stop = in.include_stop_string();
}

const char* prompt_field(const v1::GenerateRequest& in) {
  return in.has_text() ? "text" : in.has_chat() ? "chat" : "token_ids";
}

v1::FinishReason to_proto(core::GenerationEnd end) {
  switch (end) {
    case core::GenerationEnd::kEosToken:
      return v1::FINISH_REASON_EOS_TOKEN;
    case core::GenerationEnd::kStopToken:
      return v1::FINISH_REASON_STOP_TOKEN;
    case core::GenerationEnd::kStopString:
      return v1::FINISH_REASON_STOP_STRING;
    case core::GenerationEnd::kMaxNewTokens:
      return v1::FINISH_REASON_MAX_NEW_TOKENS;
    case core::GenerationEnd::kContextLength:
      return v1::FINISH_REASON_CONTEXT_LENGTH;
  }
  return v1::FINISH_REASON_UNSPECIFIED;
}

void fill(const core::GenerationTimings& in, v1::GenerateTimings& out) {
  out.set_queue_seconds(absl::ToDoubleSeconds(in.queued));
  out.set_prefill_seconds(absl::ToDoubleSeconds(in.prefill));
  out.set_total_seconds(absl::ToDoubleSeconds(in.total));
  if (!in.to_first_token) return;
  out.set_time_to_first_token_seconds(absl::ToDoubleSeconds(*in.to_first_token));
  out.set_decode_seconds(absl::ToDoubleSeconds(in.decode));
}

}  // namespace

absl::StatusOr<core::GenerationRequest> read_generate(const v1::GenerateRequest& in, int32_t layers,
                                                      absl::Time deadline) {
  core::GenerationRequest out;
  auto attention = read_attention(in.attention(), layers, /*may_compare=*/false);
  if (!attention.ok()) return attention.status();
  out.attention = std::move(attention->attention);
  auto prompt = read_prompt(in);
  if (!prompt.ok()) return prompt.status();
  out.prompt = *std::move(prompt);
  out.prompt_options = read_prompt_options(in);
  out.sampling = read_sampling(in.sampling());
  if (in.sampling().has_seed()) out.seed = in.sampling().seed();
  read_stopping(in.stopping(), out);
  out.skip_special_tokens =
      !in.response().has_skip_special_tokens() || in.response().skip_special_tokens();
  out.want_logprobs = read_columns(in.response()).logprobs;
  out.top_logprobs = in.response().top_logprobs();
  out.deadline = deadline;
  const absl::Status priority = read_priority(in.priority(), out.priority);
  if (!priority.ok()) return priority;
  return out;
}

std::vector<FieldName> generate_fields(const v1::GenerateRequest& in) {
  std::vector<FieldName> names{{"tokens[", "token_ids.ids["},
                               {"tokens", prompt_field(in)},
                               {"token", "token_id"},
                               {"stop_strings", "stopping.stop_strings"},
                               {"stop_tokens", "stopping.stop_token_ids"},
                               {"max_new_tokens", "stopping.max_new_tokens"},
                               {"min_new_tokens", "stopping.min_new_tokens"},
                               {"top_logprobs", "response.top_logprobs"}};
  for (const auto& [core, wire] :
       {std::pair{"temperature", "sampling.temperature"}, std::pair{"top_k", "sampling.top_k"},
        std::pair{"top_p", "sampling.top_p"}, std::pair{"min_p", "sampling.min_p"},
        std::pair{"repetition_penalty", "sampling.repetition_penalty"},
        std::pair{"presence_penalty", "sampling.presence_penalty"},
        std::pair{"frequency_penalty", "sampling.frequency_penalty"},
        std::pair{"logit_bias", "sampling.logit_bias"}}) {
    names.push_back({core, wire});
  }
  const std::vector<FieldName> attention = attention_fields(in.attention());
  names.insert(names.end(), attention.begin(), attention.end());
  return names;
}

GenerateColumns read_columns(const v1::ResponseOptions& in) {
  const bool top = in.top_logprobs() > 0;
  const bool logprobs = in.logprobs() || top;
  return {.prompt_ids = in.prompt_token_ids(),
          .token_ids = in.token_ids() || logprobs,
          .logprobs = logprobs,
          .top = top};
}

void to_proto(const core::GenerationStarted& started, const GenerateColumns& columns,
              v1::GenerateStarted& out) {
  out.set_prompt_tokens(static_cast<int32_t>(started.prompt_tokens.size()));
  if (columns.prompt_ids) {
    out.mutable_prompt_token_ids()->Add(started.prompt_tokens.begin(), started.prompt_tokens.end());
  }
  out.set_seed(started.seed);
  out.set_mode(mode_of(started.attention));
  if (const auto schedule = schedule_of(started.attention)) {
    out.set_schedule_id(schedule->schedule_id);
  }
  out.set_max_new_tokens(started.max_new_tokens);
}

void to_proto(core::GenerationDelta delta, const GenerateColumns& columns, v1::GenerateDelta& out) {
  out.set_text(std::move(delta.text));
  out.set_token_count(static_cast<int32_t>(delta.tokens.size()));
  for (const ScoredToken& token : delta.tokens) {
    if (columns.token_ids) out.add_token_ids(token.token);
    if (columns.logprobs) {
      out.add_logprobs(token.logprob);
      if (token.rank > 0) out.add_ranks(token.rank);
    }
    if (columns.top) to_proto(token.top, *out.add_top());
  }
}

void to_proto(const core::GenerationFinished& finished, v1::GenerateFinished& out) {
  out.set_reason(to_proto(finished.end));
  if (finished.stop_string) out.set_stop_string(*finished.stop_string);
  if (finished.end == core::GenerationEnd::kEosToken ||
      finished.end == core::GenerationEnd::kStopToken) {
    out.set_stop_token_id(finished.last_token);
  }
  out.set_prompt_tokens(finished.prompt_tokens);
  out.set_generated_tokens(finished.generated_tokens);
  *out.mutable_attention() =
      report_attention(finished.counts, finished.attention, mode_of(finished.attention));
  fill(finished.timings, *out.mutable_timings());
}

void to_proto(const std::vector<Candidate>& candidates, v1::TopCandidates& out) {
  for (const Candidate& candidate : candidates) {
    out.add_token_ids(candidate.token);
    out.add_logprobs(candidate.logprob);
  }
}

v1::ChatFormat to_proto(ChatFormat format) {
  for (const auto& [wire, known] : kChatFormats) {
    if (format == known) return wire;
  }
  return v1::CHAT_FORMAT_UNSPECIFIED;
}

}  // namespace kascade::server
