// The tokens of a tokenizer.json, by id and by text: those of `model.vocab` and `added_tokens`.
#ifndef KASCADE_ENGINE_TOKENIZER_VOCABULARY_H_
#define KASCADE_ENGINE_TOKENIZER_VOCABULARY_H_

#include <cstdint>
#include <optional>
#include <string>
#include <string_view>
#include <unordered_map>
#include <vector>

#include "absl/status/status.h"
#include "engine/tokenizer/json_fields.h"

namespace kascade::bpe {

// Allows lookups by std::string_view in a map whose keys are std::string.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <typename T>
using StringMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

// A token that is searched for in the text as a whole, before pre-tokenization and merging.
struct AddedToken {
  int32_t id = 0;
  std::string content{};
  bool special = false;
  bool normalized = false;  // searched for in the normalised text instead of the original
  bool lstrip = false;      // also consumes the white space before it
  bool rstrip = false;      // also consumes the white space after it
};

struct VocabularyEntry {
  std::string text{};
  bool present = false;  // false for an id that no token has
  bool added = false;
  bool special = false;
  bool lstrip = false;  // as in AddedToken
  bool rstrip = false;
};

class Vocabulary {
 public:
  // Ids must be below this limit, so that a damaged file cannot exhaust memory. Real vocabularies
  // have up to 262,144 ids.
  static constexpr int32_t kMaxIds = 1 << 20;

  absl::Status add_model_tokens(const Json& vocab);
  absl::Status add_added_tokens(const Json& added_tokens);

  int32_t size() const { return static_cast<int32_t>(entries_.size()); }
  bool has(int32_t id) const { return id >= 0 && id < size() && entries_[id].present; }
  const VocabularyEntry& operator[](int32_t id) const { return entries_[id]; }
  std::optional<int32_t> find(std::string_view text) const;
  const std::vector<AddedToken>& added_tokens() const { return added_tokens_; }

 private:
  absl::Status add(const std::string& path, const std::string& text, int32_t id);
  absl::Status add_added_token(const Json& json, const std::string& path);

  std::vector<VocabularyEntry> entries_;
  StringMap<int32_t> ids_;
  std::vector<AddedToken> added_tokens_;
};

}  // namespace kascade::bpe

#endif  // KASCADE_ENGINE_TOKENIZER_VOCABULARY_H_
