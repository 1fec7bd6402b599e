// From what a client sends, text, token ids or a conversation, to the tokens that the engine gets:
// encoding, BOS and the check of ids.
#ifndef KASCADE_SERVER_PROMPT_H_
#define KASCADE_SERVER_PROMPT_H_

#include <cstddef>
#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <vector>

#include "absl/status/status.h"
#include "absl/status/statusor.h"
#include "engine/engine.h"
#include "kascade/v1/chat.pb.h"
#include "kascade/v1/generate.pb.h"

namespace kascade::server {

struct PromptOptions {
  std::optional<bool> add_bos{};
  bool parse_special_tokens = false;
};

class PromptEncoder {
 public:
  // `engine` must outlive the encoder. INVALID_ARGUMENT: add_bos without a BOS.
  static absl::StatusOr<PromptEncoder> create(const Engine& engine, const PromptOptions& options);

  // INVALID_ARGUMENT naming `field`: text that is not UTF-8 or beyond what the tokenizer's pattern
  // can match, ids outside the vocabulary.
  absl::StatusOr<std::vector<Token>> text(std::string_view text, const std::string& field) const;
  absl::StatusOr<std::vector<Token>> ids(const v1::TokenIds& ids, const std::string& field) const;

  // How many tokens at the front of an encoded text are its BOS.
  size_t bos_count(const std::vector<Token>& tokens) const;

 private:
  PromptEncoder(const Engine& engine, const PromptOptions& options)
      : engine_(&engine), options_(options) {}

  const Engine* engine_;
  PromptOptions options_;
  std::vector<Token> text_bos_;  // before texts
  std::vector<Token> ids_bos_;   // before token ids
};

// INVALID_ARGUMENT naming the field below "chat"; FAILED_PRECONDITION: no format is named and the
// model's own is not known, or the tokenizer lacks the format's control tokens.
absl::StatusOr<ChatPrompt> encode_chat(const v1::ChatPrompt& chat, const Engine& engine);

v1::ChatFormat to_proto(ChatFormat format);

// INVALID_ARGUMENT naming field, index, value and limit.
absl::Status check_ids(const google::protobuf::RepeatedField<int32_t>& ids, int32_t vocab,
                       const std::string& field);

}  // namespace kascade::server

#endif  // KASCADE_SERVER_PROMPT_H_
