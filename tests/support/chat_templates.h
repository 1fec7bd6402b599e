// Chat templates in the form in which models are published with them.
#ifndef KASCADE_TESTS_SUPPORT_CHAT_TEMPLATES_H_
#define KASCADE_TESTS_SUPPORT_CHAT_TEMPLATES_H_

#include <string>

namespace kascade::testing {

// Line feeds inside the quotes of a template are real ones, or spelled \n, which Jinja reads alike.
inline std::string llama3_template(bool real_line_feeds = true) {
  const std::string gap = real_line_feeds ? "\n\n" : "\\n\\n";
  return "{% set loop_messages = messages %}{% for message in loop_messages %}{% set content = "
         "'<|start_header_id|>' + message['role'] + '<|end_header_id|>" +
         gap +
         "'+ message['content'] | trim + '<|eot_id|>' %}{% if loop.index0 == 0 %}{% set content = "
         "bos_token + content %}{% endif %}{{ content }}{% endfor %}{% if add_generation_prompt %}"
         "{{ '<|start_header_id|>assistant<|end_header_id|>" +
         gap + "' }}{% endif %}";
}

inline std::string llama2_template(bool real_line_feeds = false) {
  const std::string line = real_line_feeds ? "\n" : "\\n";
  return "{% if messages[0]['role'] == 'system' %}{% set loop_messages = messages[1:] %}{% set "
         "system_message = messages[0]['content'] %}{% else %}{% set loop_messages = messages %}{% "
         "set system_message = false %}{% endif %}{% for message in loop_messages %}{% if "
         "(message['role'] == 'user') != (loop.index0 % 2 == 0) %}{{ raise_exception('Conversation "
         "roles must alternate user/assistant/user/assistant/...') }}{% endif %}{% if loop.index0 "
         "== 0 and system_message != false %}{% set content = '<<SYS>>" +
         line + "' + system_message + '" + line + "<</SYS>>" + line + line +
         "' + message['content'] %}{% else %}{% set content = message['content'] %}{% endif %}{% "
         "if "
         "message['role'] == 'user' %}{{ bos_token + '[INST] ' + content.strip() + ' [/INST]' }}{% "
         "elif message['role'] == 'assistant' %}{{ ' '  + content.strip() + ' ' + eos_token }}{% "
         "endif %}{% endfor %}";
}

}  // namespace kascade::testing

#endif  // KASCADE_TESTS_SUPPORT_CHAT_TEMPLATES_H_
