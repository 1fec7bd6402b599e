// The chat templates that encode_chat() follows to the letter, by the SHA-256 of their text without
// a line feed at its end. Most are here twice: line feeds inside quotes as such, or as \n.
#ifndef KASCADE_ENGINE_TOKENIZER_CHAT_TEMPLATE_DIGESTS_H_
#define KASCADE_ENGINE_TOKENIZER_CHAT_TEMPLATE_DIGESTS_H_

#include <string_view>
#include <utility>

#include "engine/tokenizer/chat.h"

namespace kascade {

inline constexpr std::pair<std::string_view, ChatFormat> kChatTemplateDigests[] = {
    // Llama 3 Instruct: the first and the second published form, and the second one with a default
    // for add_generation_prompt, also with a space before a +; others that write the same.
    {"ba03a121d097859c7b5b9cd03af99aafe95275210d2876f642ad9929a150f122", ChatFormat::kLlama3},
    {"b48c47f6443892716176eb200bf4ef108f64e06ca26ed0fa8ebc0a4b3992fcb2", ChatFormat::kLlama3},
    {"47d5a7b4840c2ff2dfa0828b2465a654bef3a6cdfe032e5e105f395e4ceee812", ChatFormat::kLlama3},
    {"d499ad7b1715355631faa50e1e7472f0c50a37f32b454b3184dde8f89c796aba", ChatFormat::kLlama3},
    {"1b536e8d1c25cc370d4b8e1a3612efee72152080da5521bbb5ee28dde0defd28", ChatFormat::kLlama3},
    {"b0bae32ba15a15447f43e3be979bb4c5807d8fc34180d940efa1e9d77c822135", ChatFormat::kLlama3},
    {"4f46ecd43418f216df8c26936c60e5d04bcc81db47db5d86fbe889f64212dd4c", ChatFormat::kLlama3},
    {"b75e17085cfc511ead6d4fab84b86ab3c168ec7a332568a91d0889cdcba94394", ChatFormat::kLlama3},
    {"25d9364ce09288ed874ade392dfd082b81d3ea3b4d887f008fdcfd8427c7186b", ChatFormat::kLlama3},
    {"51cae80fbc29f47ae194cff291a4fbbd9358bc270b939b078bf25b489384b87e", ChatFormat::kLlama3},
    {"79bc2d5ef3d628d9ae204025ff3764932b4c868f9cf352b17305bdb390762b65", ChatFormat::kLlama3},
    {"6b5632b40cb3b50deef5b7c6cd230da379dbe5013a434942291c77a88e417e1a", ChatFormat::kLlama3},
    {"7324fa4238a6cc8b328c45fe0c9147169751869b1d1920730c0cf0d2d300cd8e", ChatFormat::kLlama3},
    {"9bdc1b40251e8d8c162ff5a51d1eb1bf464c4ff34d82cc971e02de7a4d3cd370", ChatFormat::kLlama3},
    {"c660084afa378dc6548b0c94a91ad753c70fac1b6043c143824202616f684ca7", ChatFormat::kLlama3},
    {"a516e48805b936250da481b38f5dc536097d3fe666b3711fe5aa53c05e2b3f28", ChatFormat::kLlama3},
    {"cf081c93aca33a617be12fc2760ed36456bb5eb103ea9125c286158dfe39e472", ChatFormat::kLlama3},
    {"223a1702b3c8426fd5e0fc75a0b4955c99074d0d7e61c22c71e85077a306a9f8", ChatFormat::kLlama3},
    // Llama 2 chat: with strip() or trim, with and without a branch for later system messages,
    // which encode_chat() refuses.
    {"9780fae5bfea3cfd7be37d328c6edfd296a8869be8131495bbe7eb37e780c88c", ChatFormat::kLlama2},
    {"5e53c989e0be846d15684f709272441562fff0321d7d47693d54c0f0ed9f4822", ChatFormat::kLlama2},
    {"7fc58500f0542d84d80c72f9271864203b43152380ca989bf6671d750a1ce813", ChatFormat::kLlama2},
    {"13fd4a3b77e53e08d1ae375a26ad45991a14a49de4062f7cedcebce75c99365f", ChatFormat::kLlama2},
    {"e8d5b5a546d3f19df16a5320c614fab05bdc4edd50e850f1afd947b503ea41cf", ChatFormat::kLlama2},
    {"7fcbb4353f3f484117a3dd8fcf597b435ab2d68cf856fd27acf69bb97c170793", ChatFormat::kLlama2},
    {"ea2472f29dbd93c3eb696795f6403228fcc4b775518869c771f83fbae5c11dbf", ChatFormat::kLlama2},
    {"218dcddb625afd8f8eda201fb8a23a5f7a05cbd64d07d66a09494f224521be3c", ChatFormat::kLlama2},
    // Llama 3.1 and 3.2 Instruct.
    {"93c0e9aa3629bbd77e68dbc0f5621f6e6b23aa8d74b932595cdb8d64684526d7", ChatFormat::kLlama3Dated},
    {"99799a835a31e1d33c4a9c7ee8a0de3923b291a95155ed6dc8efcbd0fe1d0238", ChatFormat::kLlama3Dated},
    {"d82792f95932f1c9cef5c4bd992f171225e3bf8c7b609b4557c9e1ec96be819f", ChatFormat::kLlama3Dated},
    {"0cac23ffd2b33ff7b039e17ee143a080053318146fdc788f1d49ed4745aa8683", ChatFormat::kLlama3Dated},
    // ChatML as OpenHermes, Dolphin, Qwen3 Instruct 2507 and others have it.
    {"153280e3ff55d19da1398bdb3914ee2a51b80429bfaedde11d7d216c39db80f3", ChatFormat::kChatMl},
    {"fcf7a096fe99a48fd9ad2b250bf9237e96e8f48bffec1c7ea4d3f225176cd40e", ChatFormat::kChatMl},
    {"31e10ce181f9efb8cdd33e5f274d4fea971d91ac59d24817015d7f432bb1f51c", ChatFormat::kChatMl},
    {"d98a10679cdfbbc719eabc20ff0836ad1763cd155a7ebfc2fa256c4adb74d262", ChatFormat::kChatMl},
    {"58c1a1f04baa7adaeaba1f90267c3d57d9396f0c1f0129bdde9e76d3c6784af7", ChatFormat::kChatMl},
    {"d7b5b8c7b58f7a6bf868aa46a5f73ee976d7292f40fcb9c3e7a1defd8d235cfb", ChatFormat::kChatMl},
    {"64f85b198065d0fba2a81f37e10ed68161ce2c19a754c7100e67e0ca2ee9c326", ChatFormat::kChatMl},
    {"aa39eed4cbfdd57aeaab518e83d06945f00df6afefba6eb985b6b85060cade95", ChatFormat::kChatMl},
    {"e6f6e5c192657d1631c2cdf89cd8402518e7bf3f44dce4c4a7d9be74bfaa946a", ChatFormat::kChatMl},
    {"74f3cdc42bf5432d4dc1737407e4e6f4770d2df2e4daca5e07ff9fc9ac17702f", ChatFormat::kChatMl},
    // Qwen 1.5 and Qwen2 Instruct; base models of Qwen2.5.
    {"4039eed0f28b7aaa337e70c76cfedba3271ee32505835a095a8c92e536b3c355", ChatFormat::kQwen2},
    {"7d6302983e64f35c4ad9459413ee827d5dcfa23ba5373f58cde030c9f724f7e8", ChatFormat::kQwen2},
    {"793202280c0910ab26bc6eb57c8212c2417324c6d8c4efd0d10d59092ab3e3eb", ChatFormat::kQwen2},
    {"f0206845c9ebc3abb4735d44f286eb81ce99238ad2accc710c6fc60e6cb8ccc8", ChatFormat::kQwen2},
    {"4a47f60b44d80f7b613656ca66b47b75af94cc096b3d60b6d34bfed38ecd9b3f", ChatFormat::kQwen2},
    // Qwen2.5 Instruct.
    {"55b2f4a26ac9ee719330a61a0c39d9e538b0e9322212f048326318cff4f8674a", ChatFormat::kQwen25},
    {"a18cc698dd45623eb707279d08e66f7bb8d76afc89ead84016b88487b395b5cc", ChatFormat::kQwen25},
    // Qwen2.5-Coder Instruct as GGUF.
    {"4e9918361c284a93880606d182d64da6a9fe97cdc1f5c5a78c1c8840444246fc", ChatFormat::kQwen25},
    // Qwen3: the first and the second published form, and the one for GGUF.
    {"5da44855ab7e0641774d5ed0ff0b4f89671d01df7d316e54d06557a962211cb4", ChatFormat::kQwen3},
    {"417971aff953701caec4723ccbb7d8f372f830f4aad68f5e4701aa29fb5e1ddf", ChatFormat::kQwen3},
    {"87a2728cb8dc9fe424d624542f6060ec05a1d285ebbec578bb078900e33396b5", ChatFormat::kQwen3},
    {"2df317a15cbc983d9602cc391d33be17237d47ec7eb11ead80fae277143958aa", ChatFormat::kQwen3},
    {"a55ee1b1660128b7098723e0abcd92caa0788061051c62d51cbe87d9cf1974d8", ChatFormat::kQwen3},
    {"edcd73b0e30a780c1d6f3e060c07396def3c3fa55a2c55197b10f99d1dde83e1", ChatFormat::kQwen3},
    // SmolLM2 Instruct.
    {"872be49dbb638044ad01b60388f48d469ff2980e5f0dccdc22ec907db54d0788", ChatFormat::kSmolLm2},
    {"de9cde7d1b0ca0cc87459a6673e0d12fb89c070bdb24e4a30b6e4d187b226221", ChatFormat::kSmolLm2},
    {"ad08748dd7491ce8f975334d7b53c2e1a24432a0967def7a9e249b2bfc82e564", ChatFormat::kSmolLm2},
    // Yi 1.5 Chat.
    {"91aa728ae59c8e30443382f44f48d594b5f7afe91a449c0e5ed0e920a71d60a2", ChatFormat::kYi},
    {"d46a86f116c926da86c9232a071e325115772dcf7a55e6881c09c6b43e864dc7", ChatFormat::kYi},
    // Zephyr and TinyLlama Chat.
    {"66291cf0045c2425a3a667cf3cbb7af2b11f09e025c02f97245323ab79119362", ChatFormat::kZephyr},
    {"4f39e3a4b9e3d369b42fd00d93a78f171914bb4e58ec84fc420433d7a153288a", ChatFormat::kZephyr},
    // Phi-3 mini and Phi-3.5 mini.
    {"78d976a442bcde2f0be15aafbb8e3050e1104f86732266f68403251b89982a90", ChatFormat::kPhi3},
    {"107f446a0c69ad81516797efae2998f51b1c8e3ea6e74253dcaff6629306bfc7", ChatFormat::kPhi3},
    {"dcaee66df77bfbb789ec541fe713218da30225a526f1db97138fc39ee6dc56aa", ChatFormat::kPhi3},
    {"5601fd7b9dac735cd1a9d029f73cbcf63a48f84b640df193dadc6ac6af980391", ChatFormat::kPhi3},
    // Granite 3.0 Instruct.
    {"09d68eeb5c0eaa551adea6cc088a05c7298966f395f203126e76b74f5a77a8ff", ChatFormat::kGranite},
    {"6e8b40fae55629e3d797462ed7c58f63c41ce88ca0976ae9ca51a45f96c2a141", ChatFormat::kGranite},
    // Mistral 7B Instruct as first published.
    {"26a59556925c987317ce5291811ba3b7f32ec4c647c400c6cc7e3a9993007ba7", ChatFormat::kMistralV0},
    // Mistral 7B Instruct v0.1 and v0.2, Mixtral 8x7B Instruct.
    {"bbc58aad99454df60138be9530c9601a0adfe3d8932cda975e1f10b2410ddc51", ChatFormat::kMistralV1},
    {"1c6594f8393552ef16bbf3ddecb67d8258fb8d66339a1a092a8f8496061f02d3", ChatFormat::kMistralV1},
    // Mistral 7B Instruct v0.3.
    {"cafb64e0e9e5fd2503054b3479593fae39cbdfd52338ce8af9bb4664a8eb05bd", ChatFormat::kMistralV3},
    {"9074ed36d7503f0f63bd70ef4a0db1e12ec90718aef446404917f5ee3216e2f3", ChatFormat::kMistralV3},
    // Mistral Nemo Instruct 2407.
    {"e7deee034838db2bfc7487788a3013d8a307ab69f72f3c54a85f06fd76007d4e",
     ChatFormat::kMistralTekken},
    {"1127255163dd25a2fd472f9901035aa9e78dc77ca33efdd010f5c8ea87e5d436",
     ChatFormat::kMistralTekken},
    // DeepSeek LLM, Math and V2 Lite Chat.
    {"8aeba567270fa9a8d5372caf4b04affea947c4421d96adc01e3ff94021b0ae8e", ChatFormat::kDeepSeekLlm},
    {"5b0c475e85b3954175a606f8e7540ec0c6a16edb516e2b8cd0c000dff7b1ad65", ChatFormat::kDeepSeekLlm},
    // DeepSeek V3.
    {"3b8267e54b67df6500f231ffa969955cc9d26b3444a291ced4eb96ca7d3ca1ea", ChatFormat::kDeepSeekV3},
    {"1abb11869cb1ab4f7003d1c40de7c11b046c7844da22a67e6154d29e7d14d994", ChatFormat::kDeepSeekV3},
    // DeepSeek R1 and the distilled models.
    {"563b1ce7d61d50a9b4c7439a912a1116f095b712df5b5e4d3e1116049874eb64", ChatFormat::kDeepSeekR1},
    {"5b7a90c17faa4288745d78ec7097e9a571a3bb7cddc0ab0282d552bd63c7fb51", ChatFormat::kDeepSeekR1},
    {"56a1447ad31926fdc21fb07e56e5642bd9c850c4f52d8c8af7bbe5f079a84f5f", ChatFormat::kDeepSeekR1},
    {"795ba6276beff6e84e75213f77a7e7fff71b6c587618a6ed43c1f90c2ad2334a", ChatFormat::kDeepSeekR1},
    // The distilled models of DeepSeek R1 as first published.
    {"b6835114b7303ddd78919a82e4d9f7d8c26ed0d7dfc36beeb12d524f6144eab1", ChatFormat::kDeepSeekR1V0},
    {"1546232b56f9c33a5d7fcdc270b0014d67dff9c3df06737f091a4a7dee729c3a", ChatFormat::kDeepSeekR1V0},
};

}  // namespace kascade

#endif  // KASCADE_ENGINE_TOKENIZER_CHAT_TEMPLATE_DIGESTS_H_
