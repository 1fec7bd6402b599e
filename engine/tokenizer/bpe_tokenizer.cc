#include "engine/tokenizer/bpe_tokenizer.h"

#include <algorithm>
#include <utility>

#include "absl/strings/str_cat.h"
#include "engine/tokenizer/token_bytes.h"
#include "engine/tokenizer/utf8.h"
#include "engine/tokenizer/word_end.h"

namespace kascade::bpe {
namespace {

// As kMaxTextBytes, after a normalizer has lengthened the text.
constexpr size_t kMaxNormalisedBytes = 1024u << 20;

// Stores the value of `parsed`, or returns its error.
template <typename T>
absl::Status store(absl::StatusOr<T> parsed, T& target) {
  if (!parsed.ok()) return parsed.status();
  target = *std::move(parsed);
  return absl::OkStatus();
}

}  // namespace

absl::StatusOr<std::unique_ptr<Tokenizer>> BpeTokenizer::parse(const Json& json) {
  auto tokenizer = std::make_unique<BpeTokenizer>();
  ObjectReader file(json, "");
  const std::string version = file.optional_text("version").value_or("1.0");
  if (version != "1.0") file.fail(unsupported("version", version, "1.0"));
  // How texts were cut and padded for training, which files keep by accident. Texts are encoded
  // whole and one by one here, as transformers does unless asked for more.
  file.ignore("truncation");
  file.ignore("padding");
  if (file.status().ok()) file.fail(tokenizer->read_parts(file));
  const absl::Status status = file.finish();
  if (!status.ok()) return status;
  return tokenizer;
}

absl::Status BpeTokenizer::read_parts(ObjectReader& file) {
  absl::Status status = store(Normalizer::parse(file.find("normalizer")), normalizer_);
  if (status.ok()) {
    status = store(PreTokenizer::parse(file.find("pre_tokenizer")), pre_tokenizer_);
  }
  TokenDecoder decoder;
  const bool byte_level = pre_tokenizer_.is_byte_level();
  if (status.ok()) {
    status = store(TokenDecoder::parse(file.find("decoder"), byte_level), decoder);
  }
  if (status.ok()) status = read_vocabulary(file);
  if (status.ok()) {
    status = store(BpeModel::parse(file.object("model"), vocabulary_, byte_level), model_);
  }
  if (status.ok()) {
    status = store(PostProcessor::parse(file.find("post_processor"), vocabulary_), around_);
  }
  if (!status.ok()) return status;

  strips_leading_space_ = decoder.strips_leading_space();
  bytes_.resize(vocabulary_.size());
  for (int32_t id = 0; id < vocabulary_.size(); ++id) {
    const VocabularyEntry& entry = vocabulary_[id];
    if (entry.present && !entry.special) bytes_[id] = decoder.bytes_of(entry);
  }
  words_are_independent_ = words_are_independent();
  return index_added_tokens();
}

// Whether a text may be cut behind a letter that white space follows (word_end.h).
bool BpeTokenizer::words_are_independent() const {
  return normalizer_.keeps_word_ends() && pre_tokenizer_.splits_at_word_ends() &&
         std::ranges::none_of(vocabulary_.added_tokens(), [](const AddedToken& token) {
           return token.lstrip || token.rstrip ||
                  token.content.find_first_of(" \n") != token.content.npos;
         });
}

size_t BpeTokenizer::independent_prefix(std::string_view text) const {
  return words_are_independent_ ? last_word_end(text) : 0;
}

absl::Status BpeTokenizer::read_vocabulary(ObjectReader& file) {
  ObjectReader model(file.object("model"), "model");
  const std::string type = model.optional_text("type").value_or("BPE");
  if (type != "BPE") return unsupported("model.type", type, "BPE");
  const Json& vocab = model.object("vocab");
  if (!model.status().ok()) return model.status();
  if (vocab.empty()) return malformed("model.vocab", vocab, "some tokens");
  absl::Status status = vocabulary_.add_model_tokens(vocab);
  if (status.ok() && file.find("added_tokens")) {
    status = vocabulary_.add_added_tokens(file.array("added_tokens"));
  }
  return status;
}

absl::Status BpeTokenizer::index_added_tokens() {
  for (const AddedToken& token : vocabulary_.added_tokens()) {
    const absl::StatusOr<std::string> content =
        token.normalized ? normalizer_.apply(token.content) : token.content;
    if (!content.ok()) return content.status();
    const auto add_to = [&](Finders& finders) {
      (token.normalized ? finders.in_normalised : finders.in_text).add(*content, token);
    };
    add_to(all_added_);
    if (!token.special) add_to(plain_added_);
  }
  for (Finders* finders : {&all_added_, &plain_added_}) {
    finders->longest_token = longest_token(*finders);
  }
  return absl::OkStatus();
}

std::optional<size_t> BpeTokenizer::longest_token(const Finders& finders) const {
  size_t longest = 1;
  for (const std::optional<size_t>& bytes :
       {model_.longest_token(), finders.in_text.longest_token(),
        finders.in_normalised.longest_token()}) {
    if (!bytes) return std::nullopt;
    longest = std::max(longest, *bytes);
  }
  const auto shortening = normalizer_.most_shortening();
  if (!shortening || pre_tokenizer_.drops_text()) return std::nullopt;
  return longest * *shortening;
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::encode(std::string_view text,
                                                          const EncodeOptions& options) const {
  const Finders& finders = options.parse_special_tokens ? all_added_ : plain_added_;
  EncodingRun run(options.bounds);
  if (options.add_special_tokens) run.ids = around_.prefix;
  absl::Status status = append_text(text, /*at_start=*/true, finders, run);
  const size_t suffix = options.add_special_tokens ? around_.suffix.size() : 0;
  if (status.ok()) status = run.expect_tokens(suffix);
  if (!status.ok()) return status;
  if (options.add_special_tokens) {
    run.ids.insert(run.ids.end(), around_.suffix.begin(), around_.suffix.end());
  }
  return std::move(run.ids);
}

absl::StatusOr<std::vector<int32_t>> BpeTokenizer::encode_parts(
    std::span<const PromptPart> parts, const EncodingBounds& bounds) const {
  EncodingRun run(bounds);
  for (size_t i = 0; i < parts.size(); ++i) {
    absl::Status status = run.expect_tokens(parts[i].token ? 1 : 0);
    if (!status.ok()) return status;
    if (parts[i].token) {
      run.ids.push_back(*parts[i].token);
      continue;
    }
    status = append_text(stripped_text(parts, i), i == 0, plain_added_, run);
    if (!status.ok()) return status;
  }
  return std::move(run.ids);
}

std::string_view BpeTokenizer::stripped_text(std::span<const PromptPart> parts,
                                             size_t index) const {
  std::string_view text = parts[index].text;
  // Lengths of white space are defined for valid UTF-8. Other text is refused as it is.
  if (valid_utf8_length(text) < text.size()) return text;
  const auto entry_at = [&](size_t i) -> const VocabularyEntry* {
    const bool is_token = i < parts.size() && parts[i].token && vocabulary_.has(*parts[i].token);
    return is_token ? &vocabulary_[*parts[i].token] : nullptr;
  };
  const VocabularyEntry* before = index > 0 ? entry_at(index - 1) : nullptr;
  const VocabularyEntry* after = entry_at(index + 1);
  if (before && before->rstrip) text.remove_prefix(leading_space_length(text));
  if (after && after->lstrip) text.remove_suffix(trailing_space_length(text));
  return text;
}

absl::Status BpeTokenizer::append_text(std::string_view text, bool at_start, const Finders& finders,
                                       EncodingRun& run) const {
  if (text.size() > kMaxTextBytes) {
    return absl::InvalidArgumentError(
        absl::StrCat("text of ", text.size(), " bytes, expected at most ", kMaxTextBytes));
  }
  absl::Status status = run.expect_text(text.size(), finders.longest_token);
  if (!status.ok()) return status;
  if (const size_t valid = valid_utf8_length(text); valid < text.size()) {
    return absl::InvalidArgumentError(absl::StrCat("text is not UTF-8 at byte ", valid));
  }
  status = finders.in_text.split(text, run, [&](const AddedTokenFinder::Segment& segment) {
    if (segment.id < 0) {
      const bool segment_at_start = at_start && segment.text.data() == text.data();
      return append_stretch(segment.text, segment_at_start, finders, run);
    }
    run.ids.push_back(segment.id);
    return run.add_work(1);
  });
  return status.ok() ? run.expect_tokens(0) : status;
}

absl::StatusOr<std::string> BpeTokenizer::normalise(std::string_view text, EncodingRun& run) const {
  absl::Status status =
      run.hold(EncodingRun::Use::kNormalizer, normalizer_.most_memory(text.size()));
  if (!status.ok()) return status;
  auto changed = normalizer_.apply(text);
  if (!changed.ok()) return changed.status();
  if (changed->size() > kMaxNormalisedBytes) {
    return absl::InvalidArgumentError(absl::StrCat("text of ", changed->size(),
                                                   " bytes after normalization, expected at most ",
                                                   kMaxNormalisedBytes));
  }
  run.release(EncodingRun::Use::kNormalizer);
  run.release(EncodingRun::Use::kNormalisedText);  // that of the stretch before
  status = run.hold(EncodingRun::Use::kNormalisedText, changed->capacity());
  if (!status.ok()) return status;
  return changed;
}

absl::Status BpeTokenizer::append_stretch(std::string_view text, bool at_start,
                                          const Finders& finders, EncodingRun& run) const {
  std::string normalised;
  if (!normalizer_.changes_nothing()) {
    absl::StatusOr<std::string> changed = normalise(text, run);
    if (!changed.ok()) return changed.status();
    normalised = *std::move(changed);
    text = normalised;
  }
  BpeModel::Scratch scratch;
  const PieceSink encode_piece = [&](std::string_view piece) {
    return model_.encode(piece, scratch, run);
  };
  absl::Status status =
      finders.in_normalised.split(text, run, [&](const AddedTokenFinder::Segment& segment) {
        if (segment.id >= 0) {
          run.ids.push_back(segment.id);
          return run.add_work(1);
        }
        absl::Status copies = run.hold(EncodingRun::Use::kPreTokenizer,
                                       pre_tokenizer_.most_memory(segment.text.size()));
        if (!copies.ok()) return copies;
        return pre_tokenizer_.split(segment.text, at_start && segment.text.data() == text.data(),
                                    encode_piece);
      });
  // The next stretch has a scratch of its own.
  for (const auto use :
       {EncodingRun::Use::kPreTokenizer, EncodingRun::Use::kSymbols, EncodingRun::Use::kMerging}) {
    run.release(use);
  }
  return status;
}

absl::StatusOr<std::string> BpeTokenizer::decode(std::span<const int32_t> ids,
                                                 bool skip_special) const {
  std::string bytes;
  for (size_t i = 0; i < ids.size(); ++i) {
    if (ids[i] < 0) {
      return absl::InvalidArgumentError(
          absl::StrCat("token id ", ids[i], " at position ", i, " is negative"));
    }
    bytes += !skip_special && is_special(ids[i]) ? token_text(ids[i]) : token_bytes(ids[i]);
  }
  std::string_view rest = bytes;
  if (strips_leading_space_ && rest.starts_with(' ')) rest.remove_prefix(1);
  std::string text;
  append_valid_utf8(rest, /*at_end=*/true, text);
  return text;
}

std::string_view BpeTokenizer::token_bytes(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return bytes_[id];
}

std::string_view BpeTokenizer::token_text(int32_t id) const {
  if (id < 0 || id >= vocab_size()) return {};
  return vocabulary_[id].text;
}

std::optional<int32_t> BpeTokenizer::token_id(std::string_view token_text) const {
  return vocabulary_.find(token_text);
}

bool BpeTokenizer::is_special(int32_t id) const {
  return vocabulary_.has(id) && vocabulary_[id].special;
}

}  // namespace kascade::bpe
