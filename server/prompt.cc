#include "server/prompt.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "server/errors.h"

namespace kascade::server {

absl::StatusOr<PromptEncoder> PromptEncoder::create(const Engine& engine,
                                                    const PromptOptions& options) {
  PromptEncoder encoder(engine, options);
  if (options.add_bos == false) return encoder;
  const auto prefix = engine.tokenizer().prefix_tokens();
  encoder.text_bos_.assign(prefix.begin(), prefix.end());
  if (!options.add_bos.has_value()) return encoder;
  if (encoder.text_bos_.empty()) {
    const auto& bos = engine.model().bos_token;
    if (!bos) return invalid_field("add_bos", "the model has no BOS token");
    encoder.text_bos_ = {*bos};
  }
  encoder.ids_bos_ = encoder.text_bos_;
  return encoder;
}

absl::StatusOr<std::vector<Token>> PromptEncoder::text(std::string_view text,
                                                       const std::string& field) const {
  auto tokens = engine_->tokenizer().encode(
      text, {.add_special_tokens = false, .parse_special_tokens = options_.parse_special_tokens});
  if (!tokens.ok()) {
    // RESOURCE_EXHAUSTED: the text is too much for the pattern, whenever it comes.
    const absl::StatusCode code = tokens.status().code();
    if (code != absl::StatusCode::kInvalidArgument &&
        code != absl::StatusCode::kResourceExhausted) {
      return tokens.status();
    }
    return invalid_field(field, std::string(tokens.status().message()));
  }
  const size_t there = bos_count(*tokens);
  if (there == 0) tokens->insert(tokens->begin(), text_bos_.begin(), text_bos_.end());
  return tokens;
}

absl::StatusOr<std::vector<Token>> PromptEncoder::ids(const v1::TokenIds& ids,
                                                      const std::string& field) const {
  const absl::Status status = check_ids(ids.ids(), engine_->model().vocab, field + ".ids");
  if (!status.ok()) return status;
  std::vector<Token> tokens(ids.ids().begin(), ids.ids().end());
  const bool there = tokens.size() >= ids_bos_.size() &&
                     std::equal(ids_bos_.begin(), ids_bos_.end(), tokens.begin());
  if (!there) tokens.insert(tokens.begin(), ids_bos_.begin(), ids_bos_.end());
  return tokens;
}

size_t PromptEncoder::bos_count(const std::vector<Token>& tokens) const {
  const bool there = tokens.size() >= text_bos_.size() &&
                     std::equal(text_bos_.begin(), text_bos_.end(), tokens.begin());
  return there ? text_bos_.size() : 0;
}

absl::Status check_ids(const google::protobuf::RepeatedField<int32_t>& ids, int32_t vocab,
                       const std::string& field) {
  for (int i = 0; i < ids.size(); ++i) {
    if (ids[i] >= 0 && ids[i] < vocab) continue;
    return invalid_field(absl::StrCat(field, "[", i, "]"),
                         absl::StrCat("must be in [0, ", vocab, "), got ", ids[i]),
                         reason::kUnknownToken);
  }
  return absl::OkStatus();
}

int64_t text_bytes(const Tokenizer& tokenizer, const std::vector<Token>& tokens, size_t begin) {
  int64_t bytes = 0;
  for (size_t i = begin; i < tokens.size(); ++i) {
    if (tokens[i] >= tokenizer.vocab_size()) continue;
    const bool special = tokenizer.is_special(tokens[i]);
    bytes += static_cast<int64_t>(
        (special ? tokenizer.token_text(tokens[i]) : tokenizer.token_bytes(tokens[i])).size());
  }
  return bytes;
}

}  // namespace kascade::server
