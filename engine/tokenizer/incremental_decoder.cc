#include <algorithm>
#include <utility>

#include "engine/tokenizer/tokenizer.h"
#include "engine/tokenizer/utf8.h"

namespace kascade {
namespace {

// Returns the length of the longest suffix of `text` that is a prefix of `stop` and shorter than
// `stop`.
size_t open_match_length(std::string_view text, std::string_view stop) {
  for (size_t length = std::min(text.size(), stop.size() - 1); length > 0; --length) {
    if (text.ends_with(stop.substr(0, length))) return length;
  }
  return 0;
}

}  // namespace

IncrementalDecoder::IncrementalDecoder(const Tokenizer& tokenizer,
                                       std::vector<std::string> stop_strings, bool skip_special,
                                       bool include_stop_string, bool continues_text)
    : tokenizer_(tokenizer),
      stop_strings_(std::move(stop_strings)),
      skip_special_(skip_special),
      include_stop_string_(include_stop_string),
      strip_next_space_(tokenizer.strips_leading_space() && !continues_text) {
  std::erase(stop_strings_, "");
}

IncrementalDecoder::Piece IncrementalDecoder::push(int32_t token) {
  if (stopped_ || token < 0 || token >= tokenizer_.vocab_size()) return {};
  std::string_view bytes = !skip_special_ && tokenizer_.is_special(token)
                               ? tokenizer_.token_text(token)
                               : tokenizer_.token_bytes(token);
  if (strip_next_space_ && !bytes.empty()) {
    strip_next_space_ = false;
    if (bytes.front() == ' ') bytes.remove_prefix(1);
  }
  cut_character_ += bytes;
  return release(/*at_end=*/false);
}

std::string IncrementalDecoder::finish() {
  if (stopped_) return "";
  Piece piece = release(/*at_end=*/true);
  stopped_ = true;
  return std::move(piece.text);
}

IncrementalDecoder::Piece IncrementalDecoder::release(bool at_end) {
  cut_character_.erase(0, bpe::append_valid_utf8(cut_character_, at_end, pending_));

  const std::string* matched = nullptr;
  size_t matched_end = 0;
  size_t open_length = 0;
  for (const std::string& stop : stop_strings_) {
    const size_t begin = pending_.find(stop);
    if (begin == std::string::npos) {
      open_length = std::max(open_length, open_match_length(pending_, stop));
      continue;
    }
    const size_t end = begin + stop.size();
    if (!matched || end < matched_end || (end == matched_end && stop.size() > matched->size())) {
      matched = &stop;
      matched_end = end;
    }
  }
  if (matched) {
    stopped_ = true;
    pending_.resize(include_stop_string_ ? matched_end : matched_end - matched->size());
    return {std::exchange(pending_, ""), *matched};
  }
  const size_t kept = at_end ? 0 : open_length;
  Piece piece{pending_.substr(0, pending_.size() - kept)};
  pending_.erase(0, piece.text.size());
  return piece;
}

}  // namespace kascade
