// How much a test does where a sanitizer makes it slow.
#ifndef KASCADE_TESTS_SUPPORT_SANITIZERS_H_
#define KASCADE_TESTS_SUPPORT_SANITIZERS_H_

namespace kascade::testing {

#if defined(__has_feature)
#define KASCADE_HAS_FEATURE(name) __has_feature(name)
#else
#define KASCADE_HAS_FEATURE(name) 0
#endif

#if defined(__SANITIZE_ADDRESS__) || defined(__SANITIZE_THREAD__) || \
    KASCADE_HAS_FEATURE(address_sanitizer) || KASCADE_HAS_FEATURE(thread_sanitizer)
inline constexpr bool kIsSanitized = true;
#else
inline constexpr bool kIsSanitized = false;
#endif

// So many repetitions, bytes or cases; an eighth of them under the address or thread sanitizer,
// whose programs take about eight times as long.
constexpr int repetitions(int count) { return kIsSanitized ? (count + 7) / 8 : count; }

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_SANITIZERS_H_
