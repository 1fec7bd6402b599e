// The tokens of a tokenizer.json by id and by text: `model.vocab` and `added_tokens`.
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

// Lets a map with std::string keys be asked with a std::string_view.
struct StringHash {
  using is_transparent = void;
  size_t operator()(std::string_view text) const { return std::hash<std::string_view>()(text); }
};
template <typename T>
using StringMap = std::unordered_map<std::string, T, StringHash, std::equal_to<>>;

// A token found in the text as a whole, before any merging.
struct AddedToken {
  int32_t id = 0;
  std::string content{};
  bool special = false;
  bool normalized = false;  // looked for in the normalised text instead of the text itself
  bool lstrip = false;      // takes the white space before it along
  bool rstrip = false;      // … and behind it
};

struct VocabularyEntry {
  std::string text{};
  bool present = false;  // ids may have holes
  bool added = false;
  bool special = false;
};

class Vocabulary {
 public:
  // Ids end here; keeps a damaged id from asking for all memory. Real vocabularies: up to 262,144.
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
