#include "engine/tokenizer/pattern.h"

#define PCRE2_CODE_UNIT_WIDTH 8
#include <pcre2.h>

#include <utility>

#include "absl/strings/str_cat.h"

namespace kascade::bpe {
namespace {

constexpr uint32_t kUnicode = PCRE2_UTF | PCRE2_UCP | PCRE2_NEVER_BACKSLASH_C;
constexpr uint32_t kMaxHeapKib = 64 * 1024;

template <auto Free>
struct FreeWith {
  template <typename T>
  void operator()(T* object) const {
    Free(object);
  }
};
template <typename T, auto Free>
using Owned = std::unique_ptr<T, FreeWith<Free>>;

std::string message_of(int error) {
  PCRE2_UCHAR message[200];
  const int length = pcre2_get_error_message(error, message, sizeof(message));
  return length < 0 ? absl::StrCat("PCRE2 error ", error)
                    : std::string(reinterpret_cast<const char*>(message), length);
}

// Iterates over the matches in one text.
class Search {
 public:
  Search(const pcre2_code* code, std::string_view text)
      : code_(code),
        text_(text),
        match_(pcre2_match_data_create(1, nullptr)),
        context_(pcre2_match_context_create(nullptr)) {
    if (!context_) return;
    // Ordinary patterns need a few steps per byte. The limit turns a pattern that backtracks
    // exponentially into an error instead of a stalled thread.
    const size_t steps = std::min<size_t>(10'000 + 10 * text.size(), 1'000'000'000);
    pcre2_set_match_limit(context_.get(), static_cast<uint32_t>(steps));
    pcre2_set_heap_limit(context_.get(), kMaxHeapKib);
  }

  // Returns the next match at or after `begin`, or {size, size} if there is none.
  absl::StatusOr<std::pair<size_t, size_t>> next(size_t begin) {
    if (!match_ || !context_) return absl::ResourceExhaustedError("no memory for a match");
    int found = run(begin, PCRE2_NO_UTF_CHECK);
    // The JIT-compiled code has a small stack. If a match needs more, the interpreter takes over.
    if (found == PCRE2_ERROR_JIT_STACKLIMIT) found = run(begin, PCRE2_NO_UTF_CHECK | PCRE2_NO_JIT);
    if (found == PCRE2_ERROR_NOMATCH) return std::pair{text_.size(), text_.size()};
    if (found < 0) {
      return absl::ResourceExhaustedError(
          absl::StrCat("a tokenizer pattern failed on the text: ", message_of(found)));
    }
    const PCRE2_SIZE* bounds = pcre2_get_ovector_pointer(match_.get());
    return std::pair{bounds[0], bounds[1]};
  }

 private:
  int run(size_t begin, uint32_t options) {
    return pcre2_match(code_, reinterpret_cast<PCRE2_SPTR>(text_.data()), text_.size(), begin,
                       options, match_.get(), context_.get());
  }

  const pcre2_code* code_;
  std::string_view text_;
  Owned<pcre2_match_data, pcre2_match_data_free> match_;
  Owned<pcre2_match_context, pcre2_match_context_free> context_;
};

}  // namespace

void Pattern::FreeCode::operator()(pcre2_real_code_8* code) const { pcre2_code_free(code); }

absl::StatusOr<Pattern> Pattern::compile(std::string_view pattern) {
  absl::StatusOr<std::string> translated = pcre2_pattern_of(pattern);
  if (!translated.ok()) return translated.status();
  return compile(*translated, kUnicode);
}

absl::StatusOr<Pattern> Pattern::compile_literal(std::string_view text) {
  return compile(text, PCRE2_UTF | PCRE2_LITERAL);
}

absl::StatusOr<Pattern> Pattern::compile(std::string_view pattern, uint32_t options) {
  Owned<pcre2_compile_context, pcre2_compile_context_free> context(
      pcre2_compile_context_create(nullptr));
  if (!context) return absl::ResourceExhaustedError("no memory for a pattern");
  // The newline characters that "." excludes must not depend on how the library was built.
  pcre2_set_newline(context.get(), PCRE2_NEWLINE_LF);
  int error = 0;
  PCRE2_SIZE offset = 0;
  Pattern result;
  result.code_.reset(pcre2_compile(reinterpret_cast<PCRE2_SPTR>(pattern.data()), pattern.size(),
                                   options, &error, &offset, context.get()));
  if (!result.code_) {
    return absl::InvalidArgumentError(
        absl::StrCat("bad regular expression at byte ", offset, ": ", message_of(error)));
  }
  uint32_t matches_empty = 0;
  pcre2_pattern_info(result.code_.get(), PCRE2_INFO_MATCHEMPTY, &matches_empty);
  if (matches_empty) {
    return absl::UnimplementedError("the regular expression can match the empty text");
  }
  // Without a JIT for this CPU, matching is interpreted: slower, with the same result.
  (void)pcre2_jit_compile(result.code_.get(), PCRE2_JIT_COMPLETE);
  return result;
}

absl::Status Pattern::walk(std::string_view text, const PieceSink& on_gap,
                           const PieceSink& on_match) const {
  Search search(code_.get(), text);
  size_t position = 0;
  while (position < text.size()) {
    const auto match = search.next(position);
    if (!match.ok()) return match.status();
    const auto [begin, end] = *match;
    if (begin > position) {
      const absl::Status status = on_gap(text.substr(position, begin - position));
      if (!status.ok()) return status;
    }
    if (end > begin) {
      const absl::Status status = on_match(text.substr(begin, end - begin));
      if (!status.ok()) return status;
    }
    // A look-behind can make a match empty that PCRE2 did not predict to be empty. Always advance,
    // so that the loop ends.
    if (end <= position) return absl::InternalError("a pattern matched nothing");
    position = end;
  }
  return absl::OkStatus();
}

absl::Status Pattern::split(std::string_view text, const PieceSink& sink) const {
  return walk(text, sink, sink);
}

absl::Status Pattern::find_matches(std::string_view text, const PieceSink& sink) const {
  return walk(text, [](std::string_view) { return absl::OkStatus(); }, sink);
}

absl::Status Pattern::find_gaps(std::string_view text, const PieceSink& sink) const {
  return walk(text, sink, [](std::string_view) { return absl::OkStatus(); });
}

absl::StatusOr<std::string> Pattern::replace(std::string_view text, std::string_view by) const {
  std::string result;
  const absl::Status status = walk(
      text,
      [&](std::string_view gap) {
        result += gap;
        return absl::OkStatus();
      },
      [&](std::string_view) {
        result += by;
        return absl::OkStatus();
      });
  if (!status.ok()) return status;
  return result;
}

}  // namespace kascade::bpe
